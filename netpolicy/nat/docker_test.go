package nat_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// startDockerd starts dockerd with nothing of its own but what it does to the network. It is no package of scripts/deps: where it is
// installed it takes charge of the machine's forwarding.
func startDockerd(t testing.TB) {
	t.Helper()
	installed(t, "dockerd")
	dir := t.TempDir()
	socket := "unix://" + filepath.Join(dir, "docker.sock")
	finally(t, "ip", "link", "del", "docker0")
	for _, line := range []string{"-P FORWARD ACCEPT", "-X", "-F", "-t nat -X", "-t nat -F"} { // in the end the last comes first
		finally(t, "iptables", append([]string{"-w"}, strings.Fields(line)...)...)
	}
	start(t, "dockerd", "--host", socket, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--storage-driver", "vfs")
	waitFor(t, "docker", "--host", socket, "network", "inspect", "bridge")
}

// dockerd itself: it drops phones' packets when it was the one to switch forwarding on, and not when the host had done so before.
func TestDocker(t *testing.T) {
	for _, test := range []struct {
		name, forwarding string
		conflicts        int
	}{
		{"Docker switches forwarding on", "0", 1},
		{"forwarding was on", "1", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t)
			sysctl(t, "net/ipv4/ip_forward", test.forwarding)
			p := l.phone(t, 2)
			forwarding(t, "up-server")
			serveTCP(t, l.server, addrPort(server4, 80))
			serveTCP(t, p, addrPort(p.IPv4, 5555))
			startDockerd(t)
			before := others(t)
			n := newNAT(t, nil)
			forwards := []nat.Forward{adb(p, 6001), {Listen: addrPort(host4, 6002), Protocol: policy.TCP, Phone: p.IPv4, Port: 5555}}
			apply(t, n, forwards...)
			found := conflicts(t, n)
			wantOthers(t, "a trial", before)
			if len(found) != test.conflicts {
				t.Errorf("%v; want %d conflicts", found, test.conflicts)
			}
			for _, c := range found {
				t.Log(c)
				if c.Owner != "Docker" || c.Chain != "FORWARD" || c.Rule != 0 {
					t.Errorf("%+v; want the policy of FORWARD, and Docker", c)
				}
				wantNothing(t, p, "tcp", addrPort(server4, 80))
				for _, command := range c.Mend {
					run(t, "sh", "-c", command)
				}
			}
			if left := conflicts(t, n); len(left) != 0 {
				t.Errorf("after the commands: %v", left)
			}
			wantSeenAs(t, p, "tcp", addrPort(server4, 80), host4)
			wantSeenAs(t, l.server, "tcp", addrPort(host4, 6002), server4)
			wantSeenAs(t, onHost{}, "tcp", addrPort(loopback4, 6001), gateway4)
			wantKept(t, n, p, forwards...)
		})
	}
}
