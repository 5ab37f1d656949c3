package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// networkRole starts the network where there is no card at first.
func networkRole() error {
	if err := private(); err != nil {
		return err
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil { // which shows the cards of this namespace
		return err
	}
	why := errors.New("no card came")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() { ended <- startNetwork(ctx) }()
	if err := loopbackUp(); err != nil {
		return err
	}
	cancel(why) // before a card has come
	if err := <-ended; !errors.Is(err, why) || !strings.Contains(err.Error(), "eth0") {
		return fmt.Errorf("without a card: %v, want the context's cause and what was waited for", err)
	}
	go func() { ended <- startNetwork(context.Background()) }()
	for _, name := range []string{"eth1", "eth0"} { // the first is not the one that is waited for
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}); err != nil {
			return err
		}
	}
	if err := <-ended; err != nil {
		return err
	}
	if err := startNetwork(context.Background()); err != nil {
		return fmt.Errorf("a second time: %w", err)
	}
	card, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	addresses, err := card.Addrs()
	if err != nil {
		return err
	}
	fmt.Println("eth0", card.Flags&net.FlagUp != 0, addresses)
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range routes {
		fmt.Println("route", r.Dst, "by", r.Gw)
	}
	return nil
}

// loopbackUp waits until the loopback is up.
func loopbackUp() error {
	updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribe(updates, done); err != nil {
		return err
	}
	for {
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			return err
		}
		if lo.Flags&net.FlagUp != 0 {
			return nil
		}
		<-updates
	}
}

func TestNetwork(t *testing.T) {
	said := played(t, "network", unix.CLONE_NEWNET|unix.CLONE_NEWNS)
	slices.Sort(said)
	want := []string{"eth0 true [10.0.2.15/24]", "route 0.0.0.0/0 by 10.0.2.2", "route 10.0.2.0/24 by <nil>"}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Errorf("the network (-want +got):\n%s", diff)
	}
}

// mountRole mounts in a directory of its own.
func mountRole() error {
	if err := private(); err != nil {
		return err
	}
	root := filepath.Join(os.TempDir(), "root")
	points := []mountPoint{{"tmpfs", "tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=750,size=1m"}, {"proc", "proc", "/run/proc", unix.MS_NOEXEC, ""}}
	for range 2 { // what is mounted already is no error
		if err := mountAll(root, points); err != nil {
			return err
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, root) {
			fmt.Print(strings.ReplaceAll(line, root, "ROOT"))
		}
	}
	fmt.Println(mountAll(root, []mountPoint{{"none", "no-such-fs", "/x", 0, ""}}))
	return nil
}

func TestMountAll(t *testing.T) {
	said := strings.Join(played(t, "mount", unix.CLONE_NEWNS), "\n")
	for _, want := range []string{"tmpfs ROOT/run tmpfs rw,nosuid,nodev", "size=1024k,mode=750", "proc ROOT/run/proc proc rw,noexec", "mount none (no-such-fs) at "} {
		if !strings.Contains(said, want) {
			t.Errorf("%q lacks %q", said, want)
		}
	}
}

// furnishRole furnishes a new root from one like an initrd's, which is its own root.
func furnishRole() error {
	initrd := filepath.Join(os.TempDir(), "initrd")
	for name, text := range map[string]string{
		"init": "program", "modules/a.ko": "module", "modules.order-of-load": "a", "bin/busybox": "busybox", "lib/old": "x",
		"sbin/modprobe": "busybox's", "etc/own": "own", "proc/1": "", "newroot/left": "",
	} {
		file := filepath.Join(initrd, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o750); err != nil {
			return err
		}
	}
	if err := os.Symlink("busybox", filepath.Join(initrd, "bin/sh")); err != nil {
		return err
	}
	if err := unix.Chroot(initrd); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := furnish("/newroot"); err != nil {
		return err
	}
	for _, name := range []string{
		"init", "modules", "modules.order-of-load", "bin/busybox", "bin/sh", "lib", "etc/passwd", "etc/own", "etc/mtab", "sbin/modprobe", "proc",
		"tmp", "root", "var/run", "usr/lib/modules",
	} {
		info, err := os.Lstat("/newroot/" + name)
		if err != nil {
			fmt.Println(name, "none")
			continue
		}
		link, _ := os.Readlink("/newroot/" + name)
		fmt.Println(strings.TrimSpace(fmt.Sprint(name, " ", info.Mode(), " ", link)))
	}
	passwd, err := os.ReadFile("/newroot/etc/passwd")
	fmt.Printf("%.10s\n", passwd)
	return err
}

func TestFurnish(t *testing.T) {
	want := []string{
		"init none", "modules none", "modules.order-of-load none", "bin/busybox -rwxr-x---", "bin/sh Lrwxrwxrwx busybox",
		"lib Lrwxrwxrwx usr/lib", "etc/passwd -rw-r--r--", "etc/own -rwxr-x---", "etc/mtab Lrwxrwxrwx ../proc/self/mounts",
		"sbin/modprobe Lrwxrwxrwx /run/vm/vm-guest", "proc none", "tmp drwxr-xr-x", "root drwxr-xr-x", "var/run Lrwxrwxrwx ../run",
		"usr/lib/modules drwxr-xr-x", "root:x:0:0",
	}
	if diff := cmp.Diff(want, played(t, "furnish", 0)); diff != "" {
		t.Errorf("the new root (-want +got):\n%s", diff)
	}
}

// reapRole is process 1 of a namespace, as in a machine. reboot(2) there ends the namespace, as reboot(2) tells.
func reapRole() error {
	if os.Getpid() != 1 {
		return errors.New("this is no namespace of its own: reboot(2) would be the host's")
	}
	if err := private(); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	if err := os.Setenv(roleEnv, "reaped child"); err != nil {
		return err
	}
	environment = os.Environ()
	return reap([]string{"/proc/self/exe"})
}

// reapedRole is the program that serves: it leaves orphans behind, waits until they are gone, and ends when its input does.
func reapedRole() error {
	for range 20 {
		orphan, err := exec.Command("/bin/sh", "-c", "(exit 3) & echo $!").Output()
		if err != nil {
			return err
		}
		for status := "/proc/" + strings.TrimSpace(string(orphan)); err == nil; {
			_, err = os.Stat(status)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	os.Exit(7)
	return nil
}

// TestReap has the program that serves leave orphans behind, and end.
func TestReap(t *testing.T) {
	p := play(t, "reap", unix.CLONE_NEWPID|unix.CLONE_NEWNS)
	p.expect("ready")
	if err := p.input.Close(); err != nil {
		t.Fatal(err)
	}
	p.expect("error: the control program ended: exit code 7, signal -1")
}

// TestReapSignals has process 1 get what busybox's poweroff, halt and reboot send it.
func TestReapSignals(t *testing.T) {
	for signal, want := range map[syscall.Signal]syscall.Signal{unix.SIGTERM: unix.SIGHUP, unix.SIGUSR1: unix.SIGINT, unix.SIGUSR2: unix.SIGINT} {
		t.Run(unix.SignalName(signal), func(t *testing.T) {
			p := play(t, "reap", unix.CLONE_NEWPID|unix.CLONE_NEWNS)
			p.expect("ready")
			if err := p.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			p.rest()
			// A namespace that was rebooted ends its process 1 by SIGHUP, one that was turned off by SIGINT.
			if status, ok := p.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != want {
				t.Errorf("process 1 ended with %v, want %v", p.ProcessState, want)
			}
		})
	}
}
