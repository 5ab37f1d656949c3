package main

import (
	"bufio"
	"bytes"
	"fmt"
	"image"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/encoder/convert"
	"github.com/phonehost/phonehost/encoder/internal/benchframes"
	"github.com/phonehost/phonehost/encoder/internal/displayclient"
	"github.com/phonehost/phonehost/encoder/internal/testguest"
	"github.com/phonehost/phonehost/scripts/testenv"
	"golang.org/x/sys/unix"
)

// What the benchmark encodes. The rate is the highest there is, since the frames come four times as fast as a phone's.
const (
	benchWidth, benchHeight = 720, 1280
	benchFPS, benchKbps     = 120, 10000
	benchFrames             = 200 // per block
	benchBuffers            = 3   // that the guest draws into in turn, as phones do
)

// BenchmarkCPU measures processor time per encoded frame of the whole display process, from frames that a guest commits to
// packets that a client has read, and of ffmpeg encoding the same frames with the same settings, which it is handed as I420.
// Blocks of both alternate (ABBA), b.N of them; the metrics are medians over blocks, in milliseconds per frame:
//
//	go test -run '^$' -bench CPU -benchtime 8x ./encoder/cmd/phone-display
func BenchmarkCPU(b *testing.B) {
	ffmpeg := testenv.Tool(b, "ffmpeg")
	for _, kind := range []benchframes.Kind{benchframes.Motion, benchframes.Scroll, benchframes.Typing} {
		b.Run(string(kind), func(b *testing.B) {
			frames := drawFrames(b, kind)
			file := i420File(b, frames)
			d := startDisplay(b, benchWidth, benchHeight, benchFPS)
			start := ffmpegCPU(b, ffmpeg, file, 1)
			var ours, theirs, ratios, besides []float64
			for i := 0; b.Loop(); i++ {
				var a, e, f time.Duration
				if i%2 == 0 {
					a, e = d.streamCPU(b, frames)
				}
				f = ffmpegCPU(b, ffmpeg, file, benchFrames) - start
				if i%2 == 1 {
					a, e = d.streamCPU(b, frames)
				}
				besides = append(besides, perFrame(a-e))
				ours, theirs = append(ours, perFrame(a)), append(theirs, perFrame(f))
				ratios = append(ratios, a.Seconds()/f.Seconds())
			}
			b.ReportMetric(median(ours), "cpu_ms/frame")
			b.ReportMetric(median(besides), "besides_encoding_ms/frame")
			b.ReportMetric(median(theirs), "ffmpeg_cpu_ms/frame")
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func perFrame(d time.Duration) float64 { return d.Seconds() * 1000 / benchFrames }

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// drawFrames draws as many frames as fit well in memory; a block goes through them forwards and backwards.
func drawFrames(b *testing.B, kind benchframes.Kind) [][]byte {
	source, err := benchframes.New(kind, benchWidth, benchHeight, 1)
	if err != nil {
		b.Fatal(err)
	}
	frames := make([][]byte, 50)
	for i := range frames {
		frames[i] = make([]byte, source.Size())
		source.Draw(i, frames[i])
	}
	return frames
}

// frameAt is the number of the frame at step i of a block.
func frameAt(frames [][]byte, i int) int {
	n := len(frames) - 1
	if i %= 2 * n; i > n {
		i = 2*n - i
	}
	return i
}

// i420File writes a block's frames as ffmpeg is handed them.
func i420File(b *testing.B, frames [][]byte) string {
	path := filepath.Join(b.TempDir(), "frames.yuv")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	p, err := convert.NewPicture(benchWidth, benchHeight)
	if err != nil {
		b.Fatal(err)
	}
	for i := range benchFrames {
		convert.BGRX(p, frames[frameAt(frames, i)], benchWidth*4, []image.Rectangle{image.Rect(0, 0, benchWidth, benchHeight)})
		for _, plane := range [][]byte{p.Y, p.U, p.V} {
			if _, err := f.Write(plane); err != nil {
				b.Fatal(err)
			}
		}
	}
	return path
}

// ffmpegCPU is the processor time of ffmpeg encoding the first n frames of a file.
func ffmpegCPU(b *testing.B, ffmpeg, file string, n int) time.Duration {
	rate := strconv.Itoa(benchKbps * 1000)
	buffer := strconv.Itoa(benchKbps * 1000 / benchFPS)
	cmd := exec.Command(ffmpeg, "-v", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p",
		"-re", "-s", fmt.Sprintf("%dx%d", benchWidth, benchHeight), "-r", strconv.Itoa(benchFPS), "-i", file, "-frames:v", strconv.Itoa(n),
		"-c:v", "libx264", "-threads", "1", "-preset", "ultrafast", "-tune", "zerolatency", "-profile:v", "baseline",
		"-crf", "20", "-maxrate", rate, "-bufsize", buffer, "-g", "1000000", "-refs", "1", "-bf", "0",
		"-x264-params", "sliced-threads=0:scenecut=0:keyint=infinite", "-f", "h264", "-y", "/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("ffmpeg: %v\n%s", err, out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// streamCPU is the display's processor time for a block, all of it and that of the encoder's thread: a frame is committed when
// the packet of the last has been read.
func (d *display) streamCPU(b *testing.B, frames [][]byte) (all, encoding time.Duration) {
	guest, client := d.guest(b, benchBuffers), d.client(b)
	defer guest.Close()
	defer client.Close()
	if a, err := client.Call(displayclient.OpenLevel(1, benchKbps, benchFPS)); err != nil || a.GetLevelOpened() == nil {
		b.Fatalf("open level: %v, %v", a, err)
	}
	var before time.Duration
	for i := range benchFrames + 1 {
		if i == 1 { // loading libraries and the key frame are not a frame's cost
			before = processCPU(b, d.cmd.Process.Pid)
		}
		copy(guest.Buffer(i%benchBuffers), frames[frameAt(frames, i)])
		if err := guest.Show(i % benchBuffers); err != nil {
			b.Fatal(err)
		}
		// Typing changes every second frame only: what does not change is not encoded, and not waited for.
		if i > 0 && bytes.Equal(frames[frameAt(frames, i)], frames[frameAt(frames, i-1)]) {
			continue
		}
		if err := client.Send(displayclient.Credit(1, 1)); err != nil {
			b.Fatal(err)
		}
		if _, err := client.Packet(); err != nil {
			b.Fatal(err)
		}
	}
	return processCPU(b, d.cmd.Process.Pid) - before, threadCPU(b, d.cmd.Process.Pid, "encode")
}

// threadCPU is the processor time that a process's thread of a name has used.
func threadCPU(b *testing.B, pid int, name string) time.Duration {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		comm, _ := os.ReadFile(filepath.Join(task, "comm"))
		if strings.TrimSpace(string(comm)) != name {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(task, "schedstat"))
		if err != nil {
			b.Fatal(err)
		}
		ns, err := strconv.ParseInt(strings.Fields(string(stat))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		return time.Duration(ns)
	}
	b.Fatalf("process %d has no thread %q", pid, name)
	return 0
}

// processCPU is the processor time that a process has used, by its clock (clock_getcpuclockid(3)).
func processCPU(t testing.TB, pid int) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		t.Fatalf("processor clock of %d: %v", pid, err)
	}
	return time.Duration(ts.Nano())
}

// BenchmarkMemory measures the proportional set size of a display in KiB: when a guest has drawn and nobody watches, when
// the guest has been still for so long that its buffers are unmapped, while one level streams, after it was closed, and while
// two displays stream, which share the pages of program and libraries. Of a guest's buffers, half is the
// display's where they are mapped; the metrics without_buffers leave it out.
//
//	go test -run '^$' -bench Memory -benchtime 1x ./encoder/cmd/phone-display
func BenchmarkMemory(b *testing.B) {
	frames := drawFrames(b, benchframes.Scroll)
	for b.Loop() {
		d := startDisplay(b, benchWidth, benchHeight, 30)
		guest, client := d.guest(b, benchBuffers), d.client(b)
		for i := range frames {
			showFrame(b, guest, frames, i)
		}
		if _, err := client.Call(displayclient.GetState()); err != nil {
			b.Fatal(err)
		}
		all, _ := pss(b, d.cmd.Process.Pid)
		b.ReportMetric(all, "idle_KiB")
		b.ReportMetric(stillPSS(b, d.cmd.Process.Pid), "still_KiB")

		streamForMemory(b, guest, client, frames)
		all, buffers := pss(b, d.cmd.Process.Pid)
		b.ReportMetric(all, "streaming_KiB")
		b.ReportMetric(all-buffers, "streaming_without_buffers_KiB")

		client.Send(displayclient.CloseLevel(1))
		if _, err := client.Call(displayclient.GetState()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(stillPSS(b, d.cmd.Process.Pid), "closed_KiB")

		streamForMemory(b, guest, client, frames)
		other := startDisplay(b, benchWidth, benchHeight, 30)
		otherGuest, otherClient := other.guest(b, benchBuffers), other.client(b)
		streamForMemory(b, otherGuest, otherClient, frames)
		all, buffers = pss(b, other.cmd.Process.Pid)
		b.ReportMetric(all, "streaming_of_two_KiB")
		b.ReportMetric(all-buffers, "streaming_of_two_without_buffers_KiB")
		otherGuest.Close()
		otherClient.Close()

		guest.Close()
		client.Close()
	}
	b.ReportMetric(0, "ns/op")
}

// showFrame draws a frame and commits it.
func showFrame(b *testing.B, guest *testguest.Guest, frames [][]byte, i int) {
	copy(guest.Buffer(i%benchBuffers), frames[i])
	if err := guest.Show(i % benchBuffers); err != nil {
		b.Fatal(err)
	}
}

// streamForMemory opens a level and takes a packet of every frame.
func streamForMemory(b *testing.B, guest *testguest.Guest, client *displayclient.Client, frames [][]byte) {
	if _, err := client.Call(displayclient.OpenLevel(1, 4000, 30)); err != nil {
		b.Fatal(err)
	}
	for i := range frames {
		showFrame(b, guest, frames, i)
		client.Send(displayclient.Credit(1, 1))
		if _, err := client.Packet(); err != nil {
			b.Fatal(err)
		}
	}
}

// stillPSS waits until a display has unmapped the guest's buffers and returns its proportional set size in KiB.
func stillPSS(b *testing.B, pid int) float64 {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for range 400 {
		if all, buffers := pss(b, pid); buffers == 0 {
			return all
		}
		<-again.C
	}
	b.Fatal("the display keeps the buffers of a guest that is still")
	return 0
}

// pss is a process's proportional set size in KiB, and the part of it that is a guest's buffers.
func pss(b *testing.B, pid int) (all, buffers float64) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	ofGuest := false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		field := strings.Fields(lines.Text())
		switch {
		case strings.Contains(field[0], "-"):
			ofGuest = strings.Contains(lines.Text(), "memfd:testguest")
		case field[0] == "Pss:":
			n, err := strconv.ParseFloat(field[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			all += n
			if ofGuest {
				buffers += n
			}
		}
	}
	if err := lines.Err(); err != nil || all == 0 {
		b.Fatalf("smaps of %d: %v", pid, err)
	}
	return all, buffers
}
