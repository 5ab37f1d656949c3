package logger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// readAll returns the lines of a log.
func readAll(t *testing.T, path string, o ReadOptions) []Line {
	t.Helper()
	var lines []Line
	if err := Read(t.Context(), path, o, func(l Line) error { lines = append(lines, l); return nil }); err != nil {
		t.Fatal(err)
	}
	return lines
}

var noTime = cmpopts.IgnoreFields(Line{}, "Time")

func TestCopyKeepsLines(t *testing.T) {
	long := strings.Repeat("x", MaxText)
	for _, tt := range []struct {
		name, in string
		want     []Line
	}{
		{"nothing", "", nil},
		{"lines", "a\nb\n", []Line{{Stream: Stdout, Text: "a"}, {Stream: Stdout, Text: "b"}}},
		{"empty lines", "\n\n", []Line{{Stream: Stdout}, {Stream: Stdout}}},
		{"no newline at the end", "a\nb", []Line{{Stream: Stdout, Text: "a"}, {Stream: Stdout, Text: "b"}}},
		{"exactly the longest", long + "\nb\n", []Line{{Stream: Stdout, Text: long}, {Stream: Stdout, Text: "b"}}},
		{"one byte too long", long + "y\n", []Line{{Stream: Stdout, Partial: true, Text: long}, {Stream: Stdout, Text: "y"}}},
		{"three parts", long + long + "y", []Line{{Stream: Stdout, Partial: true, Text: long}, {Stream: Stdout, Partial: true, Text: long}, {Stream: Stdout, Text: "y"}}},
		{"any bytes", "\x00\xff F \r\n", []Line{{Stream: Stdout, Text: "\x00\xff F \r"}}},
	} {
		for chunk, r := range map[string]io.Reader{"at once": strings.NewReader(tt.in), "byte by byte": iotest.OneByteReader(strings.NewReader(tt.in))} {
			t.Run(tt.name+" "+chunk, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "guest.log")
				if err := Copy(Config{Path: path}, r, nil); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, readAll(t, path, ReadOptions{}), noTime); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestCopyTakesBothStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guest.log")
	if err := Copy(Config{Path: path}, strings.NewReader("out\n"), strings.NewReader("err\n")); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, l := range readAll(t, path, ReadOptions{}) {
		got[l.Stream] += l.Text
	}
	if diff := cmp.Diff(map[string]string{"stdout": "out", "stderr": "err"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestCopyRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guest.log")
	const max = 1 << 20
	pr, pw := io.Pipe()
	go func() {
		for i := range 100_000 {
			fmt.Fprintf(pw, "line %d\n", i)
		}
		pw.Close()
	}()
	if err := Copy(Config{Path: path, MaxBytes: max, Rate: 1 << 40, Burst: 1 << 40}, pr, nil); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + ".1"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > max || info.Size() == 0 {
			t.Errorf("%s has %d bytes, want 1..%d", filepath.Base(p), info.Size(), max)
		}
	}
	lines := readAll(t, path, ReadOptions{})
	if last := lines[len(lines)-1].Text; last != "line 99999" && lines[len(lines)-1].Stream != Remark {
		t.Errorf("the last line is %q", last)
	}
}

func TestCopyDropsAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "guest.log")
		pr, pw := io.Pipe()
		done := make(chan error)
		go func() { done <- Copy(Config{Path: path, Rate: 1000, Burst: 1000}, pr, nil) }()
		flood := bytes.Repeat([]byte("0123456789012345678901234567890123456789\n"), 1000)
		pw.Write(flood)
		synctest.Wait()
		time.Sleep(2 * remarkEvery) // the bubble's clock
		synctest.Wait()
		before := len(readAll(t, path, ReadOptions{}))
		pw.Write([]byte("after the flood\n"))
		pw.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		lines := readAll(t, path, ReadOptions{})
		var kept, dropped int
		for _, l := range lines {
			var n, b int
			if l.Stream == Remark {
				if _, err := fmt.Sscanf(l.Text, "dropped %d lines, %d bytes", &n, &b); err != nil {
					t.Errorf("remark %q: %v", l.Text, err)
				}
				if b != n*41 {
					t.Errorf("remark counts %d bytes for %d lines of 41", b, n)
				}
				dropped += n
			} else {
				kept++
			}
		}
		if kept+dropped != 1001 || kept < 10 || kept > 60 {
			t.Errorf("kept %d and dropped %d lines, want few kept and 1001 in all", kept, dropped)
		}
		if len(lines) != before+1 || lines[len(lines)-1].Text != "after the flood" {
			t.Errorf("the flood's count was not written before the next line: %v", lines[before:])
		}
	})
}

// TestCopyReadsOnWithoutADisk removes the log's directory: the container must not be held up, and the loss is told later.
func TestCopyReadsOnWithoutADisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "gone")
		path := filepath.Join(dir, "guest.log")
		pr, pw := io.Pipe()
		done := make(chan error)
		go func() { done <- Copy(Config{Path: path}, pr, nil) }()
		pw.Write([]byte("lost\n"))
		synctest.Wait()
		pw.Write([]byte("lost too\n"))
		synctest.Wait()
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * remarkEvery)
		pw.Write([]byte("kept\n"))
		pw.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		lines := readAll(t, path, ReadOptions{})
		if len(lines) != 2 || !strings.HasPrefix(lines[0].Text, "dropped 2 lines, ") || lines[1].Text != "kept" {
			t.Errorf("log = %+v, want a remark about two lines and the kept one", lines)
		}
	})
}

func TestCopyEndsAHalfLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guest.log")
	if err := os.WriteFile(path, []byte("2026-11-23T06:37:01.000000000Z stdout F cut of"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Copy(Config{Path: path}, strings.NewReader("next\n"), nil); err != nil {
		t.Fatal(err)
	}
	want := []Line{{Stream: Stdout, Text: "cut of"}, {Stream: Stdout, Text: "next"}}
	if diff := cmp.Diff(want, readAll(t, path, ReadOptions{}), noTime); diff != "" {
		t.Error(diff)
	}
}

// write makes a log of numbered lines first..last.
func write(t *testing.T, path string, first, last int) {
	t.Helper()
	var b []byte
	for i := first; i <= last; i++ {
		b = appendLine(b, time.Unix(int64(i), 0), Stdout, false, fmt.Append(nil, i))
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
}

func TestReadTail(t *testing.T) {
	for _, tt := range []struct {
		name          string
		older, newer  int // lines in each file
		tail          int
		first, number int
	}{
		{"everything", 10, 10, 0, 1, 20},
		{"inside the newer", 10, 10, 3, 18, 3},
		{"all of the newer", 10, 10, 10, 11, 10},
		{"into the older", 10, 10, 11, 10, 11},
		{"more than there is", 10, 10, 99, 1, 20},
		{"more than a block", 1, 9000, 8000, 1002, 8000},
		{"no older", 0, 5, 2, 4, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "guest.log")
			if tt.older > 0 {
				write(t, path+".1", 1, tt.older)
			}
			write(t, path, tt.older+1, tt.older+tt.newer)
			lines := readAll(t, path, ReadOptions{TailLines: tt.tail})
			if len(lines) != tt.number || lines[0].Text != fmt.Sprint(tt.first) {
				t.Errorf("%d lines from %q, want %d from %d", len(lines), lines[0].Text, tt.number, tt.first)
			}
		})
	}
}

func TestReadFollowsRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guest.log")
	write(t, path, 1, 3)
	ctx, cancel := context.WithCancel(t.Context())
	lines, done := make(chan string), make(chan error)
	go func() {
		done <- Read(ctx, path, ReadOptions{Follow: true, TailLines: 1}, func(l Line) error { lines <- l.Text; return nil })
	}()
	expect := func(first, last int) {
		t.Helper()
		for i := first; i <= last; i++ {
			if got := <-lines; got != fmt.Sprint(i) {
				t.Fatalf("line %q, want %d", got, i)
			}
		}
	}
	expect(3, 3)
	write(t, path, 4, 5)
	expect(4, 5)
	write(t, path, 6, 6)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, path, 7, 8)
	expect(6, 8)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Read ended with %v", err)
	}
}

func TestReadFollowsALogThatComesIntoBeing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "p1")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "guest.log")
	lines, done := make(chan string, 1), make(chan error)
	go func() {
		done <- Read(t.Context(), path, ReadOptions{Follow: true}, func(l Line) error { lines <- l.Text; return nil })
	}()
	write(t, path, 1, 1)
	if got := <-lines; got != "1" {
		t.Errorf("line %q", got)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of a removed directory ended with %v", err)
	}
}

func TestReadOfNothing(t *testing.T) {
	if lines := readAll(t, filepath.Join(t.TempDir(), "guest.log"), ReadOptions{TailLines: 5}); lines != nil {
		t.Errorf("lines = %v", lines)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-11-23T06:37:01.123456789Z stdout F text"))
	f.Add([]byte("2026-11-23T06:37:01.123456789Z stderr P "))
	f.Add([]byte("2026-11-23T06:37:01.123456789Z log F dropped 1 lines, 2 bytes"))
	f.Add([]byte("half a li"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := Parse(raw)
		if err != nil {
			return
		}
		again := appendLine(nil, l.Time, l.Stream, l.Partial, []byte(l.Text))
		if !bytes.Equal(again, append(bytes.Clone(raw), '\n')) {
			t.Errorf("%q was read as %+v, which is written %q", raw, l, again)
		}
	})
}
