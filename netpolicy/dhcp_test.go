package netpolicy_test

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// dhcpEvents is what udhcpc runs: it tells what has happened, and with what.
const dhcpEvents = `#!/bin/sh
echo "$1 $ip/$mask by $router, asks $dns, for $lease s from $serverid"
`

// A guest's own DHCP client is given what the phone has anyway, by whichever way it asks, and the host's own server hears nothing of it.
func TestDHCPClient(t *testing.T) {
	busybox := testenv.Tool(t, "busybox")
	w := newWorld(t)
	script := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(script, []byte(dhcpEvents), 0o755); err != nil {
		t.Fatal(err)
	}
	server, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 67})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	without := phone(1)
	p := phone(2)
	p.DHCP, p.UpBits, p.DownBits = true, 10_000_000, 10_000_000
	udhcpc := []string{"udhcpc", "-f", "-n", "-t", "2", "-T", "1", "-i", "eth0", "-s", script}
	if out, err := w.ensure(without).Command(t, busybox, udhcpc...).Output(); err == nil {
		t.Errorf("a phone without DHCP gets an answer:\n%s", out)
	}

	ns := w.ensure(p)
	for _, more := range [][]string{{"-r", "10.213.9.9"}, {"-B"}} {
		cmd := ns.Command(t, busybox, append(udhcpc, more...)...)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		expect := func(event string) {
			t.Helper()
			if want := event + " 10.213.1.2/16 by 10.213.0.1, asks 10.213.0.1, for 86400 s from 10.213.0.1"; !lines.Scan() || lines.Text() != want {
				t.Errorf("%v: the client has %q; want %q", more, lines.Text(), want)
			}
		}
		lines.Scan() // "deconfig", which says nothing
		expect("bound")
		// It asks once more, first by a socket that it closes as soon as it has sent, and that has the answer by then; then as before.
		if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		expect("renew")
		_ = cmd.Process.Signal(syscall.SIGTERM) // ended already where something is wrong
		_ = cmd.Wait()                          // ended by the signal
	}

	renewLease(t, ns)
	status, err := w.engine.Status(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range []string{"MALFORMED", "PROTECTED", "SPOOFED_MAC", "SPOOFED_IP"} {
		if n := status.Counters.Dropped[reason]; n != 0 {
			t.Errorf("%d packets of the client's are dropped as %s", n, reason)
		}
	}
	if err := server.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, from, err := server.ReadFromUDP(make([]byte, 1500)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the host hears %d bytes from %v, %v", n, from, err)
	}
}

// renewLease asks the gateway for the phone's own address again by a socket of the kernel's, which leaves the checksum to the link.
func renewLease(t *testing.T, ns netlab.Namespace) {
	t.Helper()
	var conn *net.UDPConn
	request := make([]byte, 240, 244)
	err := ns.Do(func() (err error) {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		copy(request[28:], eth0.HardwareAddr)
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 213, 1, 2), Port: 68})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	copy(request, []byte{1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0, 10, 213, 1, 2})
	copy(request[236:], []byte{0x63, 0x82, 0x53, 0x63})
	request = append(request, 53, 1, 3, 255)
	if _, err := conn.WriteToUDP(request, &net.UDPAddr{IP: net.IPv4(10, 213, 0, 1), Port: 67}); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1500)
	n, from, err := conn.ReadFromUDP(answer)
	if err != nil {
		t.Fatalf("nobody answers: %v", err)
	}
	ack := []byte{0x63, 0x82, 0x53, 0x63, 53, 1, 5}
	if n != 300 || from.String() != "10.213.0.1:67" || !bytes.Equal(answer[4:8], request[4:8]) || !bytes.Equal(answer[16:20], request[12:16]) || !bytes.Equal(answer[236:243], ack) {
		t.Errorf("from %s come %x", from, answer[:n])
	}
}
