package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// probes ask the kernel what it does with an app's packets in many phones. Each is a socket that was made in the cgroup of a phone's guest and given to
// the app's uid, which the programs judge as they judge the app's own: so one process asks for a hundred phones in less than a millisecond, and
// nothing in the phones has to do anything.
type probes struct {
	t       testing.TB
	ids     []string
	sockets []int
	sink    unix.Sockaddr // of a socket of the host's that nobody reads
}

// probe makes probes of phones that run. The test's process has been in their cgroups when it returns, and is where it was.
func probe(t testing.TB, phones []*phonehostv1.Phone, uid int) *probes {
	t.Helper()
	p := &probes{t: t, sink: sink(t)}
	home := cgroupOf(t, "self")
	for _, phone := range phones {
		id := phone.GetSpec().GetId()
		enter(t, cgroupOf(t, fmt.Sprint(phone.GetInitPid())))
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		enter(t, home)
		if err != nil {
			t.Fatalf("a socket in the cgroup of %s: %v", id, err)
		}
		t.Cleanup(func() { unix.Close(socket) })
		if err := unix.Fchown(socket, uid, -1); err != nil {
			t.Fatal(err)
		}
		p.ids, p.sockets = append(p.ids, id), append(p.sockets, socket)
	}
	return p
}

// sink binds a socket on loopback and returns its address.
func sink(t testing.TB) unix.Sockaddr {
	t.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(socket) })
	if err := unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	to, err := unix.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// cgroupOf is the directory of the cgroup v2 that a process is in.
func cgroupOf(t testing.TB, pid string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if path, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::"); v2 {
			return filepath.Join(cgroup2(t), path)
		}
	}
	t.Fatalf("process %s is in no cgroup v2:\n%s", pid, text)
	return ""
}

// cgroup2 is where cgroup v2 is mounted, alone or beside version 1.
func cgroup2(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	t.Fatal("no cgroup v2 is mounted")
	return ""
}

// enter moves this process into a cgroup.
func enter(t testing.TB, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		t.Fatalf("enter a cgroup: %v", err)
	}
}

// denied tells whether the kernel refuses what the app of the phone with that number sends.
func (p *probes) denied(i int) bool {
	switch err := unix.Sendto(p.sockets[i], []byte("x"), 0, p.sink); err {
	case nil:
		return false
	case unix.EPERM:
		return true
	default:
		p.t.Fatalf("send from the cgroup of %s: %v", p.ids[i], err)
		return false
	}
}

// want fails the test unless the kernel denies the app in all phones, or in none.
func (p *probes) want(when string, denied bool) {
	p.t.Helper()
	var other []string
	for i, id := range p.ids {
		if p.denied(i) != denied {
			other = append(other, id)
		}
	}
	if len(other) > 0 {
		p.t.Errorf("%s: want the app denied: %t; on %d of %d phones it is otherwise: %v", when, denied, len(other), len(p.ids), other)
	}
}
