package guest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/control"
)

// got returns a file by way of the handler.
func got(t *testing.T, c *control.Client, name string) string {
	t.Helper()
	var out bytes.Buffer
	if err := c.Get(bounded(t), name, &out); err != nil {
		t.Error(err)
	}
	return out.String()
}

// alone asserts that a directory has those names in it and no other.
func alone(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var there []string
	for _, entry := range entries {
		there = append(there, entry.Name())
	}
	if strings.Join(there, " ") != strings.Join(names, " ") {
		t.Errorf("in the directory are %v, want %v", there, names)
	}
}

func TestPut(t *testing.T) {
	c := connected(t)
	dir := filepath.Join(t.TempDir(), "new", "dir")
	name := filepath.Join(dir, "file")
	data := make([]byte, 5<<20)
	rand.Read(data)
	for _, mode := range []fs.FileMode{0o750, 0o600, 0o444 | fs.ModeSetuid} {
		if err := c.Put(bounded(t), name, mode, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(name); err != nil || info.Mode() != mode.Perm() {
			t.Errorf("mode %v, %v, want %v", info.Mode(), err, mode.Perm())
		}
		if got(t, c, name) != string(data) {
			t.Error("the content is another one")
		}
	}
	// A name that is a link is replaced, not what it leads to.
	link := filepath.Join(dir, "link")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	if err := c.Put(bounded(t), link, 0o644, strings.NewReader("instead")); err != nil {
		t.Fatal(err)
	}
	if got(t, c, link) != "instead" || got(t, c, name) != string(data) {
		t.Error("a file was put through a link")
	}
	alone(t, dir, "file", "link")
}

// TestPutIsAtOnce reads a file while a new one comes, which then does not come whole.
func TestPutIsAtOnce(t *testing.T) {
	c := connected(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	if err := c.Put(bounded(t), name, 0o644, strings.NewReader("old")); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	broken := errors.New("broken")
	var putting sync.WaitGroup
	putting.Go(func() {
		if err := c.Put(bounded(t), name, 0o644, r); !errors.Is(err, broken) {
			t.Errorf("a reader that breaks: %v", err)
		}
	})
	if _, err := io.WriteString(w, strings.Repeat("new", 1<<20)); err != nil {
		t.Fatal(err)
	}
	if text := got(t, c, name); text != "old" {
		t.Errorf("while the new file comes the old one has %d bytes", len(text))
	}
	w.CloseWithError(broken)
	putting.Wait()
	if text := got(t, c, name); text != "old" {
		t.Errorf("after half of a new file the old one has %d bytes", len(text))
	}
	alone(t, dir, "file")
}

func TestPutRefused(t *testing.T) {
	c := connected(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub", "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		path string
		is   func(error) bool
	}{
		"a relative path":  {"file", errdefs.IsInvalidArgument},
		"a directory":      {filepath.Join(dir, "sub"), errdefs.IsAlreadyExists},
		"below a file":     {filepath.Join(dir, "file", "x"), func(err error) bool { return err != nil }},
		"where nobody may": {"/proc/none", func(err error) bool { return err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.Put(bounded(t), test.path, 0o644, strings.NewReader("x")); !test.is(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	alone(t, dir, "file", "sub")
	alone(t, filepath.Join(dir, "sub"), "below")
}

func TestGet(t *testing.T) {
	c := connected(t)
	dir := t.TempDir()
	for name, test := range map[string]struct {
		path string
		is   func(error) bool
	}{
		"a relative path":   {"file", errdefs.IsInvalidArgument},
		"a directory":       {dir, errdefs.IsInvalidArgument},
		"what is not there": {filepath.Join(dir, "none"), errdefs.IsNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.Get(bounded(t), test.path, io.Discard); !test.is(err) || !strings.Contains(err.Error(), test.path) {
				t.Errorf("got %v", err)
			}
		})
	}
	// A file of the kernel's tells no size.
	want, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if text := got(t, c, "/proc/sys/kernel/random/boot_id"); text != string(want) {
		t.Errorf("got %q, want %q", text, want)
	}
}

func TestDial(t *testing.T) {
	c := connected(t)
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "tcp4": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		t.Run(network, func(t *testing.T) {
			listener, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			var serving sync.WaitGroup
			defer serving.Wait()
			serving.Go(func() {
				conn, err := listener.Accept()
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(struct{ io.Writer }{conn}, conn)
				conn.Close()
			})
			conn, err := c.Dial(bounded(t), network, listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, "hello")
			conn.(interface{ CloseWrite() error }).CloseWrite()
			if back, err := io.ReadAll(conn); string(back) != "hello" || err != nil {
				t.Errorf("back came %q, %v", back, err)
			}
		})
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Dial(bounded(t), "tcp", free.Addr().String()); !errdefs.IsUnavailable(err) {
		t.Errorf("a port on which nobody listens: %v", err)
	}
	if _, err := c.Dial(bounded(t), "unix", "/no/such/socket"); !errdefs.IsNotFound(err) {
		t.Errorf("a socket that is not there: %v", err)
	}
	for _, network := range []string{"udp", "unixgram", "unixpacket", "ip", ""} {
		if _, err := c.Dial(bounded(t), network, "127.0.0.1:1"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("network %q: %v", network, err)
		}
	}
}

// TestPowerActions looks at what is accepted; it must not be carried out here.
func TestPowerActions(t *testing.T) {
	for _, kind := range []string{kindKernel, kindSystem} {
		h := &handler{kind: kind}
		for _, action := range []string{control.PowerOff, control.Reboot} {
			if act, err := h.Power(t.Context(), action); act == nil || err != nil {
				t.Errorf("%s machine, %s: %v", kind, action, err)
			}
		}
		if act, err := h.Power(t.Context(), "halt"); act != nil || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s machine, halt: %v", kind, err)
		}
	}
}
