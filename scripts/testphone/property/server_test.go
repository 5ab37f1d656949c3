package property

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server over a store until the test ends and returns its socket.
func serve(t *testing.T, store *Store, control func(name, value string) error) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(Config{Store: store, Control: control})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return socket
}

func TestClientAndServer(t *testing.T) {
	ctx := t.Context()
	store := NewStore()
	c := NewClient(serve(t, store, nil))
	if err := c.Set(ctx, "debug.a", "1"); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(ctx, "ro.b", "2"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, "debug.a"); got != "1" || err != nil {
		t.Errorf("Get = %q, %v", got, err)
	}
	if got, err := c.Get(ctx, "debug.none"); got != "" || err != nil {
		t.Errorf("Get of nothing = %q, %v", got, err)
	}
	got, err := c.List(ctx)
	if diff := cmp.Diff([]Property{{"debug.a", "1"}, {"ro.b", "2"}}, got); diff != "" || err != nil {
		t.Errorf("List: %v (-want +got):\n%s", err, diff)
	}
	if err := c.Set(ctx, "ro.b", "3"); !errors.Is(err, ErrReadOnly) {
		t.Errorf("second write of ro: %v", err)
	}
	if err := c.Set(ctx, "a b", "3"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad name: %v", err)
	}
	if err := c.Set(ctx, "a", strings.Repeat("x", 92)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("long value: %v", err)
	}
	if err := c.Set(ctx, "ctl.start", "x"); !errdefs.IsNotFound(err) {
		t.Errorf("order without a controller: %v", err)
	}
	if _, err := NewClient(filepath.Join(t.TempDir(), "none")).Get(ctx, "a"); !errdefs.IsUnavailable(err) {
		t.Errorf("no service: %v", err)
	}
}

func TestOrdersAreNotStored(t *testing.T) {
	store := NewStore()
	var got []string
	c := NewClient(serve(t, store, func(name, value string) error {
		got = append(got, name+" "+value)
		if value == "none" {
			return errdefs.ErrNotFound
		}
		return nil
	}))
	if err := c.Set(t.Context(), "ctl.start", "screen"); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), "ctl.stop", "none"); !errdefs.IsNotFound(err) {
		t.Errorf("unknown service: %v", err)
	}
	if diff := cmp.Diff([]string{"ctl.start screen", "ctl.stop none"}, got); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
	if all := store.All(); len(all) != 0 {
		t.Errorf("stored %v", all)
	}
}

func TestWatch(t *testing.T) {
	store := NewStore()
	store.Set("a.x", "0")
	c := NewClient(serve(t, store, nil))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []Property
	err := c.Watch(ctx, "a.", func(p Property) {
		got = append(got, p)
		switch p.Value {
		case "0":
			store.Set("b.y", "no")
			store.Set("a.x", "1")
		case "1":
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Watch = %v", err)
	}
	if diff := cmp.Diff([]Property{{"a.x", "0"}, {"a.x", "1"}}, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// TestAndroidSetproperty2 sends the very bytes of bionic's client.
func TestAndroidSetproperty2(t *testing.T) {
	store := NewStore()
	conn, err := net.Dial("unix", serve(t, store, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("\x01\x00\x02\x00\x05\x00\x00\x00sys.a\x02\x00\x00\x00on"))
	var result [4]byte
	if _, err := io.ReadFull(conn, result[:]); err != nil || result != [4]byte{} {
		t.Errorf("result %x, %v", result, err)
	}
	if got := store.Get("sys.a"); got != "on" {
		t.Errorf("value %q", got)
	}
}

func TestRubbishEndsItsConnectionOnly(t *testing.T) {
	store := NewStore()
	socket := serve(t, store, nil)
	for _, req := range []string{"\xff\xff\xff\xff", "\x01\x00\x02\x00\xff\xff\xff\xff", "GET / HTTP/1.1\r\n\r\n"} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(req))
		conn.(*net.UnixConn).CloseWrite()
		reply, err := io.ReadAll(conn)
		if len(reply) < 4 || binary.LittleEndian.Uint32(reply) == resultOK {
			t.Errorf("%q: answer %x, %v", req, reply, err)
		}
		conn.Close()
	}
	if err := NewClient(socket).Set(t.Context(), "a", "1"); err != nil {
		t.Errorf("after rubbish: %v", err)
	}
}

func FuzzReadString(f *testing.F) {
	f.Add(appendString(nil, "abc"))
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := readString(bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(b, appendString(nil, s)) {
			t.Errorf("%x read as %q", b, s)
		}
	})
}
