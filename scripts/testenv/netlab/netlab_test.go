package netlab_test

import (
	"io"
	"net"
	"os"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

func TestMain(m *testing.M) { os.Exit(netlab.Run(m)) }

func TestHostAndServerTalk(t *testing.T) {
	testenv.Root(t)
	server := netlab.Make(t, "server")
	server.Wire(t, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"})
	for _, address := range []string{"192.0.2.2:80", "[2001:db8::2]:80"} {
		var listener net.Listener
		if err := server.Do(func() (err error) { listener, err = net.Listen("tcp", address); return err }); err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "hello from "+conn.RemoteAddr().String())
		}()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		text, err := io.ReadAll(conn)
		if want := "hello from " + conn.LocalAddr().String(); err != nil || string(text) != want {
			t.Errorf("the server said %q, %v; want %q", text, err, want)
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if len(links) != 2 {
		t.Errorf("the host has the interfaces %v; want loopback and the link to the server", links)
	}
}
