package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/encoder/internal/benchframes"
	"github.com/phonehost/phonehost/encoder/internal/displayclient"
	"github.com/phonehost/phonehost/encoder/internal/testguest"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// What both sides of BenchmarkPeer do: the same guest, showing so many frames at a phone's rate.
const (
	peerFPS    = 30
	peerFrames = 150
	peerKbps   = 4000
	nobody     = 65534 // sway does not run as root
)

// BenchmarkPeer measures processor time while a guest shows the same frames in real time: of a display with a viewer, and of a headless
// sway (pixman) with wf-recorder encoding by libx264, summed. Blocks of both alternate, b.N of each:
//
//	go test -run '^$' -bench Peer -benchtime 4x ./encoder/cmd/phone-display
func BenchmarkPeer(b *testing.B) {
	frames := drawFrames(b, benchframes.Scroll)
	d := startDisplay(b, benchWidth, benchHeight, peerFPS)
	peer := startSway(b)
	var ours, theirs, ratios []float64
	for b.Loop() {
		a, p := d.realTimeCPU(b, frames), peer.recordCPU(b, frames)
		ours, theirs = append(ours, a.Seconds()*1000/peerFrames), append(theirs, p.Seconds()*1000/peerFrames)
		ratios = append(ratios, a.Seconds()/p.Seconds())
	}
	b.ReportMetric(median(ours), "cpu_ms/frame")
	b.ReportMetric(median(theirs), "sway_wf-recorder_cpu_ms/frame")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(0, "ns/op")
}

// show commits the frames at the phone's rate.
func show(b *testing.B, guest *testguest.Guest, frames [][]byte) {
	for i, f := range frames {
		copy(guest.Buffer(i), f)
	}
	tick := time.NewTicker(time.Second / peerFPS)
	defer tick.Stop()
	for i := range peerFrames {
		<-tick.C
		if err := guest.Show(frameAt(frames, i)); err != nil {
			b.Fatal(err)
		}
	}
}

// realTimeCPU is the display's processor time for a block with a viewer that takes every packet at once.
func (d *display) realTimeCPU(b *testing.B, frames [][]byte) time.Duration {
	guest, client := d.guest(b, len(frames)), d.client(b)
	if a, err := client.Call(displayclient.OpenLevel(1, peerKbps, peerFPS)); err != nil || a.GetLevelOpened() == nil {
		b.Fatalf("open level: %v, %v", a, err)
	}
	if err := client.Send(displayclient.Credit(1, 3)); err != nil {
		b.Fatal(err)
	}
	packets := make(chan int)
	go func() {
		n := 0
		for {
			if _, err := client.Packet(); err != nil {
				packets <- n
				return
			}
			n++
			_ = client.Send(displayclient.Credit(1, 1)) // the end of the block closes the connection
		}
	}()
	before := processCPU(b, d.cmd.Process.Pid)
	show(b, guest, frames)
	used := processCPU(b, d.cmd.Process.Pid) - before
	client.Close()
	guest.Close()
	if n := <-packets; n < peerFrames*9/10 {
		b.Fatalf("the viewer got %d packets of %d frames", n, peerFrames)
	}
	return used
}

// sway is a headless compositor with one output of the phone's size.
type sway struct {
	cmd *exec.Cmd
	dir string // its XDG_RUNTIME_DIR
}

const swayConfig = `
output HEADLESS-1 mode --custom 720x1280@30Hz
output HEADLESS-1 bg #000000 solid_color
default_border none
exec touch %s/ready
`

func startSway(b *testing.B) *sway {
	b.Helper()
	testenv.Root(b) // to become nobody
	program := testenv.Tool(b, "sway")
	// Not b.TempDir: its parents are root's alone.
	dir, err := os.MkdirTemp("", "sway-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, fmt.Appendf(nil, swayConfig, dir), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		b.Fatal(err)
	}
	s := &sway{dir: dir, cmd: exec.Command(program, "-c", config)}
	var log bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &log, &log
	s.asNobody(s.cmd, "WLR_BACKENDS=headless", "WLR_RENDERER=pixman", "WLR_LIBINPUT_NO_DEVICES=1")
	if err := s.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		s.cmd.Process.Signal(syscall.SIGTERM)
		s.cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
			return s
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			b.Fatalf("sway did not start:\n%s", log.String())
		}
	}
}

func (s *sway) asNobody(cmd *exec.Cmd, env ...string) {
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "XDG_RUNTIME_DIR=" + s.dir, "WAYLAND_DISPLAY=wayland-1"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

// recordCPU is the summed processor time of sway and wf-recorder for a block.
func (s *sway) recordCPU(b *testing.B, frames [][]byte) time.Duration {
	guest, err := testguest.Dial(filepath.Join(s.dir, "wayland-1"), benchWidth, benchHeight, len(frames))
	if err != nil {
		b.Fatal(err)
	}
	if err := guest.Show(0); err != nil {
		b.Fatal(err)
	}
	out := filepath.Join(s.dir, "out.h264")
	os.Remove(out)
	recorder := exec.Command(testenv.Tool(b, "wf-recorder"), "-t", "-m", "h264", "-c", "libx264", "-p", "preset=ultrafast", "-p", "tune=zerolatency",
		"-p", "profile=baseline", "-p", "crf=23", "-p", "threads=1", "-p", "g=1000000", "-f", out)
	var log bytes.Buffer
	recorder.Stdout, recorder.Stderr = &log, &log
	s.asNobody(recorder)
	before := processCPU(b, s.cmd.Process.Pid)
	if err := recorder.Start(); err != nil {
		b.Fatal(err)
	}
	show(b, guest, frames)
	used := processCPU(b, s.cmd.Process.Pid) - before
	if err := recorder.Process.Signal(syscall.SIGINT); err != nil {
		b.Fatal(err)
	}
	guest.Show(0) // it ends with the next frame
	guest.Show(1)
	if err := recorder.Wait(); err != nil {
		b.Fatalf("wf-recorder: %v\n%s", err, log.String())
	}
	guest.Close()
	if info, err := os.Stat(out); err != nil || info.Size() < 1000 {
		b.Fatalf("wf-recorder wrote nothing: %v\n%s", err, log.String())
	}
	return used + recorder.ProcessState.UserTime() + recorder.ProcessState.SystemTime()
}

// BenchmarkStill measures what a screen costs that does not change: packets and encoded frames after it has settled, and the share of one
// core that the display takes, watched and not watched, over b.N blocks of ten seconds each.
//
//	go test -run '^$' -bench Still -benchtime 1x ./encoder/cmd/phone-display
func BenchmarkStill(b *testing.B) {
	const block = 10 * time.Second
	frames := drawFrames(b, benchframes.Still)
	d := startDisplay(b, benchWidth, benchHeight, peerFPS)
	guest, client := d.guest(b, 2), d.client(b)
	defer guest.Close()
	defer client.Close()
	copy(guest.Buffer(0), frames[0])
	if err := guest.Show(0); err != nil {
		b.Fatal(err)
	}
	measure := func() (encoded uint64, share float64) {
		start := counters(b, client)
		before := processCPU(b, d.cmd.Process.Pid)
		<-time.After(block)
		used := processCPU(b, d.cmd.Process.Pid) - before
		return counters(b, client) - start, 100 * used.Seconds() / block.Seconds()
	}
	for b.Loop() {
		encoded, share := measure()
		b.ReportMetric(share, "unwatched_cpu_percent")
		if encoded != 0 {
			b.Errorf("%d frames were encoded with no viewer", encoded)
		}
		if a, err := client.Call(displayclient.OpenLevel(1, peerKbps, peerFPS)); err != nil || a.GetLevelOpened() == nil {
			b.Fatalf("open level: %v, %v", a, err)
		}
		if err := client.Send(displayclient.Credit(1, 16)); err != nil {
			b.Fatal(err)
		}
		for range 3 { // the key frame, and the refresh in two steps
			if _, err := client.Packet(); err != nil {
				b.Fatal(err)
			}
		}
		encoded, share = measure()
		b.ReportMetric(share, "watched_cpu_percent")
		b.ReportMetric(float64(encoded), "watched_frames_encoded")
		if err := client.Send(displayclient.CloseLevel(1)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// counters returns how many frames the display has encoded.
func counters(b *testing.B, client *displayclient.Client) uint64 {
	b.Helper()
	a, err := client.Call(displayclient.GetState())
	if err != nil || a.GetState() == nil {
		b.Fatalf("state: %v, %v", a, err)
	}
	return a.GetState().GetFramesEncoded()
}
