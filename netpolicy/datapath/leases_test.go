package datapath_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/datapath"
)

// leases opens a datapath with a phone in slot 1, and its leases.
func leases(t *testing.T) (*datapath.Datapath, *datapath.Leases, datapath.Client) {
	t.Helper()
	d := open(t, datapath.Config{})
	if err := d.SetPhone(device(t, "ph-1").Index, phoneIn(1)); err != nil {
		t.Fatal(err)
	}
	l, err := datapath.OpenLeases(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	c, ok, err := l.Client(phoneIn(1).IPv4)
	if err != nil || !ok {
		t.Fatalf("the phone's address is unknown: %v", err)
	}
	return d, l, c
}

// address is one of many.
func address(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 51, byte(100 + n>>8), byte(n)})
}

func TestClients(t *testing.T) {
	d, l, c := leases(t)
	if c.Slot != 1 || c.Policy != 0 || c.Cut {
		t.Errorf("the phone of %s is %+v", phoneIn(1).IPv4, c)
	}
	if six, ok, err := l.Client(phoneIn(1).IPv6); err != nil || !ok || six.Slot != 1 {
		t.Errorf("the phone of %s is %+v, %v, %v", phoneIn(1).IPv6, six, ok, err)
	}
	if _, ok, err := l.Client(phoneIn(2).IPv4); err != nil || ok {
		t.Errorf("an address that no phone has: %v, %v", ok, err)
	}
	p := phoneIn(1)
	p.Policy, p.Cut = 9, true
	phones, err := d.Phones()
	if err != nil {
		t.Fatal(err)
	}
	for link := range phones {
		if err := d.SetPhone(link, p); err != nil {
			t.Fatal(err)
		}
	}
	if c, ok, err := l.Client(p.IPv4); err != nil || !ok || c.Policy != 9 || !c.Cut {
		t.Errorf("after a change the phone is %+v, %v, %v; want policy 9, cut", c, ok, err)
	}
}

func TestLeases(t *testing.T) {
	d, l, c := leases(t)
	inAnHour := time.Now().Add(time.Hour)
	if err := l.Open(c, address(1), 77, inAnHour); err != nil {
		t.Fatal(err)
	}
	if err := l.Open(c, address(1), 77, time.Now().Add(time.Minute)); err != nil { // shorter: changes nothing
		t.Fatal(err)
	}
	have := d.NamesOf(1, address(1))
	if until, found := have[77]; len(have) != 1 || !found || until.Sub(inAnHour).Abs() > time.Second {
		t.Errorf("the address is open by %v; want name 77 until %v", have, inAnHour)
	}
	for name := range uint64(9) { // one more than there is room for: that which ends first makes room
		if err := l.Open(c, address(2), 100+name, inAnHour.Add(time.Duration(name)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	have = d.NamesOf(1, address(2))
	if _, found := have[100]; len(have) != 8 || found {
		t.Errorf("the address is open by %v; want names 101 to 108", have)
	}
	for _, wrong := range []error{l.Open(c, netip.Addr{}, 1, inAnHour), l.Open(c, address(1), 0, inAnHour)} {
		if !errdefs.IsInvalidArgument(wrong) {
			t.Errorf("%v; want errdefs.ErrInvalidArgument", wrong)
		}
	}
}

// TestLeasesHaveRoom: one phone's names take no room of others', and of its own those that end first go.
func TestLeasesHaveRoom(t *testing.T) {
	d, l, c := leases(t)
	for n := range 600 {
		if err := l.Open(c, address(n), 5, time.Now().Add(time.Hour+time.Duration(n)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	elements(t, d, map[string]int{"phones": 1, "clients": 2, "flows": 1, "denials": 1, "names": 512})
	if have := d.NamesOf(1, address(87)); len(have) != 0 {
		t.Errorf("the address that was to end before the last 512 is open by %v", have)
	}
	if have := d.NamesOf(1, address(88)); len(have) != 1 {
		t.Errorf("the address that was to end 512th from the last is open by %v", have)
	}
}

func TestLeasesEnd(t *testing.T) {
	d, l, c := leases(t)
	if err := errors.Join(l.Open(c, address(1), 5, time.Now().Add(-time.Second)), l.Open(c, address(2), 5, time.Now().Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	if err := l.Expire(); err != nil {
		t.Fatal(err)
	}
	if ended, lives := d.NamesOf(1, address(1)), d.NamesOf(1, address(2)); len(ended) != 0 || len(lives) != 1 {
		t.Errorf("the lease that has ended is %v, the other %v", ended, lives)
	}
}

// TestLeasesOfARemovedPhone: an answer that comes when its phone is gone opens nothing for the next one in its slot.
func TestLeasesOfARemovedPhone(t *testing.T) {
	d, l, c := leases(t)
	if err := l.Open(c, address(1), 5, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	phones, err := d.Phones()
	if err != nil {
		t.Fatal(err)
	}
	for link := range phones {
		if err := d.RemovePhone(link); err != nil {
			t.Fatal(err)
		}
	}
	nothing(t, d)
	if err := l.Open(c, address(2), 5, time.Now().Add(time.Hour)); !errdefs.IsNotFound(err) {
		t.Errorf("%v; want errdefs.ErrNotFound", err)
	}
	if err := d.SetPhone(device(t, "ph-2").Index, phoneIn(1)); err != nil {
		t.Fatal(err)
	}
	if err := l.Open(c, address(2), 5, time.Now().Add(time.Hour)); !errdefs.IsNotFound(err) {
		t.Errorf("with another link for the same address: %v; want errdefs.ErrNotFound", err)
	}
	elements(t, d, map[string]int{"phones": 1, "clients": 2, "flows": 1, "denials": 1})
}

func TestLeasesAreStale(t *testing.T) {
	d := cold(t, datapath.Config{MaxPhones: 16})
	l, err := datapath.OpenLeases(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d.Close()
	d = reopen(t, datapath.Config{MaxPhones: 16})
	if l.Stale() {
		t.Error("the maps were adopted, and the leases are said to be stale")
	}
	d.Close()
	d = reopen(t, datapath.Config{MaxPhones: 32}) // makes them anew
	if !l.Stale() {
		t.Error("the maps are others, and the leases are not said to be stale")
	}
	d.Close()
	if err := datapath.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := datapath.OpenLeases(dir); !errdefs.IsNotFound(err) {
		t.Errorf("without a datapath: %v; want errdefs.ErrNotFound", err)
	}
}

// leasesChild uses Leases on a thread without capabilities, which may use no bpf(2) commands but those that are documented.
func leasesChild() error {
	runtime.LockOSThread()
	if err := unprivileged(); err != nil {
		return err
	}
	l, err := datapath.OpenLeases(dir)
	if err != nil {
		return err
	}
	c, ok, err := l.Client(phoneIn(1).IPv4)
	if err != nil || !ok {
		return fmt.Errorf("client: %v, %w", ok, err)
	}
	for n := range 600 { // more than there is room for
		if err := l.Open(c, address(n), 5, time.Now().Add(time.Duration(n-100)*time.Second)); err != nil {
			return err
		}
	}
	if err := l.Expire(); err != nil {
		return err
	}
	fmt.Println("ok")
	if os.Getenv("EXCEED") != "" {
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_GET_NEXT_ID, 0, 0)
		return errno
	}
	return l.Close()
}

// unprivileged gives this thread's capabilities up, and all bpf(2) commands but those of Leases: others end the process.
func unprivileged() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	equal := func(k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	commands := []uint32{
		unix.BPF_OBJ_GET, unix.BPF_OBJ_GET_INFO_BY_FD, unix.BPF_MAP_LOOKUP_ELEM, unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_DELETE_ELEM, unix.BPF_MAP_LOOKUP_BATCH,
	}
	program := []unix.SockFilter{load(0), equal(unix.SYS_BPF, 0, uint8(len(commands)+2)), load(16)} // nr and args[0] of struct seccomp_data
	for i, command := range commands {
		program = append(program, equal(command, uint8(len(commands)-i), 0))
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0x80000000}, // SECCOMP_RET_KILL_PROCESS
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000}, // SECCOMP_RET_ALLOW
	)
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, 1, 0, uintptr(unsafe.Pointer(&filter))); errno != 0 { // SECCOMP_SET_MODE_FILTER
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// TestLeasesNeedNoPrivileges: the documented commands are all that Leases uses, and they need no capability.
func TestLeasesNeedNoPrivileges(t *testing.T) {
	d := open(t, datapath.Config{})
	if err := d.SetPhone(device(t, "ph-1").Index, phoneIn(1)); err != nil {
		t.Fatal(err)
	}
	cmd, out := child(t, "leases")
	said, err := io.ReadAll(out)
	if err := errors.Join(err, cmd.Wait()); err != nil || string(said) != "ok\n" {
		t.Errorf("the child said %q, %v", said, err)
	}
	cmd, out = child(t, "leases", "EXCEED=1")
	said, _ = io.ReadAll(out)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGSYS || string(said) != "ok\n" {
		t.Errorf("a child that uses another command said %q and ended with %v; want it killed by SIGSYS: else the filter filters nothing", said, err)
	}
}
