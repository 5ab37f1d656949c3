package machine

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
)

// TestPortIsReadToItsEnd has a guest say much and go: all of it is read after the news that nothing more comes, however that came first.
func TestPortIsReadToItsEnd(t *testing.T) {
	for _, tt := range []struct {
		name    string
		reading bool // when the news comes
		closed  bool // the other end
	}{
		{name: "nobody reads"},
		{name: "nobody reads, and QEMU has ended", closed: true},
		{name: "a read waits", reading: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			guest, host := portPair(t)
			said := bytes.Repeat([]byte("last words "), 2000)
			got := make(chan []byte, 1)
			read := func() {
				data, err := io.ReadAll(host)
				if err != nil {
					t.Error(err)
				}
				got <- data
			}
			if tt.reading {
				go read()
			}
			if _, err := guest.Write(said); err != nil {
				t.Fatal(err)
			}
			if tt.closed {
				guest.Close()
			}
			host.finish()
			if !tt.reading {
				go read()
			}
			if data := <-got; !bytes.Equal(data, said) {
				t.Errorf("read %d bytes of %d", len(data), len(said))
			}
		})
	}
}

// portPair is the end of a control port that QEMU has, and the host's.
func portPair(t *testing.T) (net.Conn, *hostPort) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "control"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	host, err := newHostPort(conn)
	if err != nil {
		t.Fatal(err)
	}
	guest, err := listener.Accept()
	if err != nil {
		t.Fatal(errors.Join(err, host.Close()))
	}
	t.Cleanup(func() {
		guest.Close()
		host.Close()
	})
	return guest, host
}
