package packages_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/packages"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// trick is something that a guest puts in the place of its list.
type trick struct {
	name string
	root bool // it needs root
	put  func(g guest)
	// undo makes room for a list; nil removes the list and no more.
	undo  func(g guest)
	class error
	want  string
}

// outside makes a directory of the host's with a list in it.
func outside(g guest) string {
	g.t.Helper()
	dir := g.t.TempDir()
	g.ok(os.MkdirAll(filepath.Join(dir, "system"), 0o755))
	for _, name := range []string{"packages.list", "system/packages.list"} {
		g.ok(os.WriteFile(filepath.Join(dir, name), []byte("host.secret 10001 0 / s none\n"), 0o600))
	}
	return dir
}

// swap puts a link in the place of a directory.
func swap(name, to string) trick {
	return trick{
		put:   func(g guest) { g.rename(name, "away"); g.ok(os.Symlink(to, g.path(name))) },
		undo:  func(g guest) { g.ok(os.Remove(g.path(name))); g.rename("away", name) },
		class: errdefs.ErrFailedPrecondition, want: name + " is a symbolic link; want a directory",
	}
}

func (tr trick) named(name string) trick { tr.name = name; return tr }

func mount(g guest, what, at string, flags uintptr) {
	g.t.Helper()
	g.ok(unix.Mount(what, g.path(at), "tmpfs", flags, ""))
	g.t.Cleanup(func() { _ = unix.Unmount(g.path(at), unix.MNT_DETACH) })
}

var tricks = []trick{
	{name: "nothing", put: func(guest) {}, undo: func(guest) {}, class: errdefs.ErrNotFound, want: "there is no /data/system/packages.list"},
	{name: "pipe", put: func(g guest) { g.ok(unix.Mkfifo(g.path(packages.Path), 0o666)) }, class: errdefs.ErrFailedPrecondition, want: "is a pipe; want a regular file"},
	{name: "directory", put: func(g guest) { g.mkdir(packages.Path) }, class: errdefs.ErrFailedPrecondition, want: "is a directory; want a regular file"},
	{name: "socket", put: func(g guest) {
		// The path is too long for a socket's address.
		g.t.Chdir(g.path("data/system"))
		l, err := net.Listen("unix", "packages.list")
		g.ok(err)
		g.t.Cleanup(func() { l.Close() })
	}, class: errdefs.ErrFailedPrecondition, want: "is a socket; want a regular file"},
	{name: "device", root: true, put: func(g guest) {
		g.ok(unix.Mknod(g.path(packages.Path), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	}, class: errdefs.ErrFailedPrecondition, want: "is a device; want a regular file"},
	{name: "link to the host", put: func(g guest) {
		g.ok(os.Symlink(filepath.Join(outside(g), "packages.list"), g.path(packages.Path)))
	}, class: errdefs.ErrFailedPrecondition, want: "is a symbolic link; want a regular file"},
	{name: "link within the guest", put: func(g guest) {
		g.ok(os.WriteFile(g.path("data/system/x"), []byte(old), 0o600))
		g.ok(os.Symlink("x", g.path(packages.Path)))
	}, class: errdefs.ErrFailedPrecondition, want: "is a symbolic link"},
	{name: "link to itself", put: func(g guest) {
		g.ok(os.Symlink("packages.list", g.path(packages.Path)))
	}, class: errdefs.ErrFailedPrecondition, want: "is a symbolic link"},
	{name: "system links to the host", put: func(g guest) {
		swap("/data/system", outside(g)).put(g)
	}, undo: swap("/data/system", "").undo, class: errdefs.ErrFailedPrecondition, want: "/data/system is a symbolic link; want a directory"},
	{name: "data links to the host", put: func(g guest) {
		swap("/data", outside(g)).put(g)
	}, undo: swap("/data", "").undo, class: errdefs.ErrFailedPrecondition, want: "/data is a symbolic link; want a directory"},
	swap("/data/system", "../../../../../../../../../../../../etc").named("system leads up"),
	swap("/data", "/proc/self/root").named("data is a magic link"),
	{
		name: "system is a file", put: func(g guest) { g.rename("data/system", "away"); g.ok(os.WriteFile(g.path("data/system"), nil, 0o600)) },
		undo:  func(g guest) { g.ok(os.Remove(g.path("data/system"))); g.rename("away", "data/system") },
		class: errdefs.ErrFailedPrecondition, want: "/data/system is something else; want a directory",
	},
	{name: "system is a mount", root: true, put: func(g guest) {
		mount(g, "tmpfs", "data/system", 0)
		g.put(old)
	}, undo: func(g guest) { g.ok(unix.Unmount(g.path("data/system"), unix.MNT_DETACH)) }, class: errdefs.ErrFailedPrecondition, want: "/data/system is a mount of its own"},
	{name: "list is a mount", root: true, put: func(g guest) {
		g.ok(os.WriteFile(g.path(packages.Path), nil, 0o600))
		mount(g, filepath.Join(outside(g), "packages.list"), packages.Path, unix.MS_BIND)
	}, undo: func(g guest) {
		g.ok(unix.Unmount(g.path(packages.Path), unix.MNT_DETACH))
		g.ok(os.Remove(g.path(packages.Path)))
	}, class: errdefs.ErrFailedPrecondition, want: packages.Path + " is a mount of its own"},
	{name: "too long", put: func(g guest) {
		g.ok(os.WriteFile(g.path(packages.Path), nil, 0o600))
		g.ok(os.Truncate(g.path(packages.Path), 1<<40))
	}, class: errdefs.ErrOutOfRange, want: "has 1099511627776 bytes"},
	{name: "damaged", put: func(g guest) { g.put(whole + "com.example.new\n") }, class: errdefs.ErrDataLoss, want: packages.Path + ": line 6:"},
	{name: "empty", put: func(g guest) { g.put("") }, class: errdefs.ErrDataLoss, want: "no package"},
	{name: "lease", put: func(g guest) {
		g.put(old)
		f, err := os.OpenFile(g.path(packages.Path), os.O_WRONLY, 0)
		g.ok(err)
		g.t.Cleanup(func() { f.Close() })
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
			g.t.Skipf("the file system has no leases: %v", err)
		}
	}, class: errdefs.ErrUnavailable, want: "has a lease on it"},
}

// refused tells whether an error is the one that a trick is answered with.
func (tr trick) refused(err error) bool {
	return errors.Is(err, tr.class) && strings.Contains(err.Error(), tr.want)
}

// do plays the trick on a guest without a list, and has it undone afterwards.
func (tr trick) do(t *testing.T) (g guest, undo func()) {
	if tr.root {
		testenv.Root(t)
	}
	g = newGuest(t).mkdir("data/system")
	tr.put(g)
	return g, func() {
		if tr.undo != nil {
			tr.undo(g)
			return
		}
		g.ok(os.Remove(g.path(packages.Path)))
	}
}

func TestRead(t *testing.T) {
	for _, tr := range tricks {
		t.Run(tr.name, func(t *testing.T) {
			g, undo := tr.do(t)
			if table, err := packages.Read(g.open()); !tr.refused(err) || table != nil {
				t.Errorf("%v, %v; want a %v that says %q", table, err, tr.class, tr.want)
			}
			undo()
			g.put(whole)
			if table, err := packages.Read(g.open()); err != nil || table.Len() != 5 {
				t.Errorf("a right list is read as %v, %v", table, err)
			}
		})
	}
}
