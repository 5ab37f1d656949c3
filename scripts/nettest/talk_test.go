package nettest

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// silence is how long a connection that must not be made is tried: what is dropped is not answered.
const silence = 300 * time.Millisecond

// serve echoes what connections to an address of a namespace send.
func (w *world) serve(ns netlab.Namespace, address string) {
	w.t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // until the other side has enough
			}()
		}
	}()
}

// servePackets echoes datagrams.
func (w *world) servePackets(ns netlab.Namespace, address string) {
	w.t.Helper()
	var c net.PacketConn
	if err := ns.Do(func() (err error) { c, err = net.ListenPacket("udp", address); return err }); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buffer[:n], from)
		}
	}()
}

// connect makes a connection from a namespace.
func connect(ns netlab.Namespace, network, address string, patience time.Duration) (conn net.Conn, err error) {
	doErr := ns.Do(func() error {
		d := net.Dialer{Timeout: patience}
		conn, err = d.Dial(network, address)
		return nil
	})
	return conn, errors.Join(err, doErr)
}

// dial makes a connection that the test's end closes.
func (w *world) dial(t *testing.T, ns netlab.Namespace, address string) net.Conn {
	t.Helper()
	conn, err := connect(ns, "tcp", address, patience)
	if err != nil {
		t.Fatalf("from %s to %s: %v", ns.Name, address, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echoes tells whether what is sent comes back within a time.
func echoes(conn net.Conn, within time.Duration) bool { return echo(conn, []byte("echo"), within) }

func echo(conn net.Conn, text []byte, within time.Duration) bool {
	if _, err := conn.Write(text); err != nil {
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(within))
	_, err := io.ReadFull(conn, make([]byte, len(text)))
	return err == nil
}
