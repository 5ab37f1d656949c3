package container

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReleasePipes lets a writer and a reader wait in open for a partner that never comes, as a shim does.
func TestReleasePipes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "exec")
	if err := os.MkdirAll(filepath.Join(dir, "one"), 0o700); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error)
	waiting := 0
	for name, flag := range map[string]int{"stdin": unix.O_RDONLY, "stdout": unix.O_WRONLY} {
		path := filepath.Join(dir, "one", name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		waiting++
		go func() {
			fd, err := unix.Open(path, flag, 0)
			if err == nil {
				unix.Close(fd)
			}
			opened <- err
		}()
	}
	held, err := releasePipes(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer held.close()
	for range waiting {
		// A side that came too late finds no pipe; none may wait for ever.
		if err := <-opened; err != nil && err != unix.ENOENT {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the pipes are still there: %v", err)
	}
	if held, err := releasePipes(dir); err != nil || len(held.fds) != 0 {
		t.Errorf("with no pipes at all: %v %v", held, err)
	}
}
