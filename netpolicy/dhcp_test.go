package netpolicy_test

import (
	"bufio"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv"
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
