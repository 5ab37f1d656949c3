// Package netlab gives a test a network of its own: the whole test process lives in a network namespace that stands for the host, with a
// BPF file system and a /run of its own, and other namespaces are wired to it as servers and neighbours. Nothing of the machine's own
// network is seen or changed.
//
// A package with such tests says so once:
//
//	func TestMain(m *testing.M) { os.Exit(netlab.Run(m)) }
//
// Without root Run lets the tests run where they are: each must begin with testenv.Root, which skips it. What the tests make goes with
// the process.
//
// Only tests import it.
package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/netns"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/vm/machine"
)

// inside is set in the process that has the network of its own.
const inside = "PHONEHOST_NETLAB"

// NamespaceDir is where Make makes namespaces.
const NamespaceDir = "/run/netlab"

// The main thread stays in the host's namespace, by which others know the process (/proc/self/ns/net): Do never gets it.
func init() { runtime.LockOSThread() }

// Run runs the tests of a package in a network, mount and control group view of their own and returns their exit code.
func Run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(inside) == "" {
		return again()
	}
	if slices.Contains(os.Args, "-test.fuzzworker") {
		return m.Run() // it was started inside
	}
	if err := enter(); err != nil {
		fmt.Fprintln(os.Stderr, "netlab:", err)
		return 2
	}
	return m.Run()
}

// again runs this program once more, in new namespaces, and passes on what it ends with.
func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	// Machines that the tests start count among the host's: this process stays where it is.
	cmd.Env = append(os.Environ(), inside+"=1", fmt.Sprintf("%s=/proc/%d/ns/net", machine.HostNetwork, os.Getpid()))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the death signal is sent when this thread ends
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "netlab: start in namespaces of its own:", err)
		return 2
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	signal.Stop(signals)
	close(signals)
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	return 2
}

// enter makes the new namespaces habitable.
func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// The machine's control groups stay: a containerd that a test starts needs them. So do programs that were built before the tests.
	kept := []string{"/sys/fs/cgroup"}
	if programs := os.Getenv(testenv.BinariesEnv); programs != "" {
		kept = append(kept, programs)
	}
	trees := make([]int, len(kept))
	for i, dir := range kept {
		var err error
		if trees[i], err = unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE); err != nil {
			return fmt.Errorf("keep %s: %w", dir, err)
		}
		defer unix.Close(trees[i])
	}
	// A new sysfs shows the interfaces of the namespace that it is mounted in.
	for _, m := range []struct{ kind, at string }{{"sysfs", "/sys"}, {"bpf", "/sys/fs/bpf"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.kind, m.at, err)
		}
	}
	for i, dir := range kept {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("keep %s: %w", dir, err)
		}
		if err := unix.MoveMount(trees[i], "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("keep %s: %w", dir, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// Namespace is a network namespace beside the host's.
type Namespace struct {
	// Name and Path of it, a file.
	Name, Path string
}

// Make makes a namespace with loopback up, which the test's end removes.
func Make(t testing.TB, name string) Namespace {
	t.Helper()
	dir := netns.New(NamespaceDir)
	path, err := dir.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dir.Delete(name); err != nil {
			t.Error(err)
		}
	})
	return Namespace{Name: name, Path: path}
}

// Host returns the namespace that the test process is in.
func Host() Namespace { return Namespace{Name: "host", Path: "/proc/self/ns/net"} }

// Do calls fn on a thread that is in the namespace; fn must not leave it to other goroutines to open sockets. The thread is not used again.
func (n Namespace) Do(fn func() error) (err error) {
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		f, openErr := os.Open(n.Path)
		if openErr != nil {
			err = openErr
			return
		}
		defer f.Close()
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter network namespace %s: %w", n.Name, err)
			return
		}
		err = fn()
	})
	done.Wait()
	return err
}

// Command returns a command that will run in the namespace. It needs nsenter (util-linux).
func (n Namespace) Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), "nsenter", append([]string{"--net=" + n.Path, "--", name}, args...)...)
}

// Run runs a command in the namespace and returns what it printed; a failure ends the test.
func (n Namespace) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := n.Command(t, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("in %s: %s %q: %v\n%s", n.Name, name, args, err, out)
	}
	return string(out)
}

// Wire connects the namespace to the host by a veth pair: "up-NAME" on the host with the addresses near, "eth0" in the namespace with the
// addresses far ("192.0.2.1/24") and default routes to the first of near of each family. The names of the ends are returned by Link.
func (n Namespace) Wire(t testing.TB, near, far []string) netlink.Link {
	t.Helper()
	host := "up-" + n.Name
	f, err := os.Open(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pair := netlink.NewVeth(netlink.LinkAttrs{Name: host})
	pair.PeerName, pair.PeerNamespace = "eth0", netlink.NsFd(int(f.Fd()))
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(fmt.Errorf("wire %s: %w", n.Name, err))
	}
	link, err := netlink.LinkByName(host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) }) // gone already when the test took the namespace away
	if err := configure(link, near); err != nil {
		t.Fatal(err)
	}
	err = n.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := configure(eth0, far); err != nil {
			return err
		}
		return errors.Join(defaults(eth0, near), detectDuplicates(eth0, true))
	})
	if err := errors.Join(err, detectDuplicates(link, true)); err != nil {
		t.Fatal(fmt.Errorf("wire %s: %w", n.Name, err))
	}
	return link
}

// detectDuplicates says whether a link's new IPv6 addresses wait for duplicate address detection, as they do on a host. Not those that a
// link begins with, the kernel's included: who waits for them waits for a second.
func detectDuplicates(link netlink.Link, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	return os.WriteFile("/proc/sys/net/ipv6/conf/"+link.Attrs().Name+"/accept_dad", []byte(value), 0)
}

// configure gives a link addresses and brings it up. None of them, the one that the kernel adds included, waits for duplicate address detection.
func configure(link netlink.Link, addresses []string) error {
	if err := detectDuplicates(link, false); err != nil {
		return err
	}
	for _, text := range addresses {
		address, err := netlink.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("address %q: %w", text, err)
		}
		if address.IP.To4() == nil {
			address.Flags |= unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, address); err != nil {
			return fmt.Errorf("give %s to %s: %w", text, link.Attrs().Name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// defaults adds a default route by the first address of each family.
func defaults(link netlink.Link, near []string) error {
	seen := map[bool]bool{}
	for _, text := range near {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		if seen[prefix.Addr().Is4()] {
			continue
		}
		seen[prefix.Addr().Is4()] = true
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IP(prefix.Addr().AsSlice())}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("default route by %s: %w", prefix.Addr(), err)
		}
	}
	return nil
}
