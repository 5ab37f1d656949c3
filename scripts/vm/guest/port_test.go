package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fifo returns a port over a FIFO that nobody writes to, which gives no bytes and no error to a read, as the driver does while the
// host is not there.
func fifo(t *testing.T) (p *port, name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	return opened(t, name, os.O_RDONLY|unix.O_NONBLOCK), name
}

func opened(t *testing.T, name string, flags int) *port {
	t.Helper()
	f, err := os.OpenFile(name, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &port{file: f, raw: raw}
}

// TestPortWaitsForTheHost reads before the host is there, while it speaks, and when it has gone.
func TestPortWaitsForTheHost(t *testing.T) {
	p, name := fifo(t)
	if n, err := unix.Read(fileDescriptor(t, p.file), make([]byte, 1)); n != 0 || err != nil {
		t.Fatalf("a read without a host gives %d, %v: the test shows nothing", n, err)
	}
	var got []byte
	var read error
	var reading sync.WaitGroup
	reading.Go(func() { got, read = io.ReadAll(p) })
	host, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("hello "), 100_000)
	if _, err := host.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	reading.Wait()
	if read != nil || !bytes.Equal(got, text) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(text), read)
	}
	if n, err := p.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the host went: %d, %v, want io.EOF", n, err)
	}
}

func fileDescriptor(t *testing.T, f *os.File) (fd int) {
	t.Helper()
	if err := withFD(f, func(n int) error { fd = n; return nil }); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestPortCloses ends a read without a host, and a write that the host does not take.
func TestPortCloses(t *testing.T) {
	waiting, _ := fifo(t)
	reader, _ := fifo(t) // keeps the other end of what is written
	stuck := opened(t, reader.file.Name(), os.O_WRONLY|unix.O_NONBLOCK)
	begun := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		if n, err := waiting.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("a read under way: %d, %v", n, err)
		}
	})
	all.Go(func() {
		close(begun)
		if n, err := stuck.Write(make([]byte, 1<<20)); n == 0 || n == 1<<20 || err == nil {
			t.Errorf("a write under way: %d, %v", n, err)
		}
	})
	<-begun
	if _, err := io.ReadFull(reader, make([]byte, 10)); err != nil { // it is under way
		t.Fatal(err)
	}
	for _, p := range []*port{waiting, stuck} {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	if _, err := waiting.Read(make([]byte, 1)); err == nil {
		t.Error("a closed port is read from")
	}
}

// TestPortWritesAll writes more than the other end holds at once.
func TestPortWritesAll(t *testing.T) {
	reader, name := fifo(t)
	w := opened(t, name, os.O_WRONLY|unix.O_NONBLOCK)
	text := bytes.Repeat([]byte("0123456789"), 100_000)
	var writing sync.WaitGroup
	writing.Go(func() {
		if n, err := w.Write(text); n != len(text) || err != nil {
			t.Errorf("wrote %d of %d, %v", n, len(text), err)
		}
		w.Close()
	})
	got, err := io.ReadAll(reader)
	writing.Wait()
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(text), err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenPortGivesUp(t *testing.T) {
	why := errors.New("enough waited")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := openPort(ctx, "no such port"); !errors.Is(err, why) || !strings.Contains(err.Error(), "no such port") {
		t.Errorf("got %v, want the context's cause and the port", err)
	}
	if _, err := openDevice(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a device that is not there: %v", err)
	}
}
