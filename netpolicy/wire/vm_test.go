package wire

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMOlderKernels wires a phone on kernels that forward IPv6 on all links or on none.
func TestVMOlderKernels(t *testing.T) {
	vm.Run(t, vm.On("6.1").System().And(vm.On("6.12").System().Nightly()), func(t *testing.T) {
		vm.Modprobe(t, "veth")
		l := newLab(t)
		p := phone("p1", 0)
		before := settings(t)
		l.ensure(t, p)
		for _, address := range []string{net.JoinHostPort(server4, "7"), net.JoinHostPort(server6, "7")} {
			if err := l.echoes(p.ID, address); err != nil {
				t.Errorf("the phone does not reach %s: %v", address, err)
			}
		}
		got := changes(before, settings(t))
		for name, want := range map[string]string{
			"ipv4/conf/up-server/forwarding": "0 -> 1", "ipv6/conf/all/forwarding": "0 -> 1", "ipv6/conf/up-server/accept_ra": "1 -> 2",
		} {
			if got[name] != want {
				t.Errorf("%s is changed %q, want %q", name, got[name], want)
			}
		}
		if change, ok := got["ipv4/ip_forward"]; ok {
			t.Errorf("IPv4 forwarding of the host is changed: %s", change)
		}
		want := l.settled(t, p)
		l.guest(p.ID).Run(t, "sh", "-ec", "ip link set eth0 down; ip link set eth0 name wlan0; ip link set wlan0 up mtu 600")
		l.ensure(t, p)
		l.same(t, p, want, "a guest's work")
		l.removeAll(t, p.ID)
		l.nothing(t, p, "Remove")
	})
}

// echoes sends a line over TCP from the phone to a listener of the server that returns it.
func (l lab) echoes(id, address string) error {
	var listener net.Listener
	if err := l.server.Do(func() (err error) { listener, err = net.Listen("tcp", address); return err }); err != nil {
		return err
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, err = io.Copy(conn, conn)
			err = errors.Join(err, conn.Close())
		}
		served <- err
	}()
	return l.guest(id).Do(func() error {
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			return err
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		text, err := io.ReadAll(conn)
		if err == nil && string(text) != "hello\n" {
			err = errors.New("it came back as " + string(text))
		}
		return errors.Join(err, <-served)
	})
}
