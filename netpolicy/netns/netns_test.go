package netns_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/netns"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// newDir returns a directory whose namespaces are removed when the test ends.
func newDir(t *testing.T) netns.Dir {
	t.Helper()
	testenv.Root(t)
	d := netns.New(filepath.Join(t.TempDir(), "netns"))
	t.Cleanup(func() {
		names, err := d.List()
		if err != nil {
			t.Error(err)
		}
		for _, name := range names {
			if err := d.Delete(name); err != nil {
				t.Error(err)
			}
		}
	})
	return d
}

// links returns the names and states of the links in the namespace at path.
func links(t *testing.T, path string) map[string]bool {
	t.Helper()
	got := make(map[string]bool)
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
			return
		}
		defer home.Close()
		defer func() {
			if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err == nil {
				runtime.UnlockOSThread()
			}
		}()
		f, err := os.Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		all, err := netlink.LinkList()
		if err != nil {
			t.Error(err)
		}
		for _, l := range all {
			got[l.Attrs().Name] = l.Attrs().RawFlags&unix.IFF_UP != 0
		}
	})
	wg.Wait()
	return got
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestCreateMakesOneNamespaceWithLoopbackUp(t *testing.T) {
	d := newDir(t)
	path, err := d.Create("p1")
	if err != nil {
		t.Fatal(err)
	}
	if up, ok := links(t, path)["lo"]; !ok || !up {
		t.Errorf("links = %v, want lo up", links(t, path))
	}
	if inode(t, path) == inode(t, "/proc/self/ns/net") {
		t.Error("the namespace is the host's")
	}

	first := inode(t, path)
	again, err := netns.New(filepath.Dir(path)).Create("p1")
	if err != nil || again != path {
		t.Fatalf("second Create = %q, %v", again, err)
	}
	if inode(t, path) != first {
		t.Error("a second Create replaced the namespace")
	}
}

func TestCreateFinishesWhatACrashLeft(t *testing.T) {
	d := newDir(t)
	path := d.Path("p1")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create("p1"); err != nil {
		t.Fatal(err)
	}
	if _, ok := links(t, path)["lo"]; !ok {
		t.Error("no loopback")
	}
}

func TestDeleteRemovesEverything(t *testing.T) {
	d := newDir(t)
	for _, id := range []string{"a", "b"} {
		if _, err := d.Create(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete("a"); err != nil {
		t.Errorf("deleting twice: %v", err)
	}
	if _, err := os.Lstat(d.Path("a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
	names, err := d.List()
	if diff := cmp.Diff([]string{"b"}, names); diff != "" || err != nil {
		t.Errorf("List: %v\n%s", err, diff)
	}
}

// TestCallersStayWhereTheyAre shows that the thread that made a namespace never runs other goroutines.
func TestCallersStayWhereTheyAre(t *testing.T) {
	d := newDir(t)
	home := inode(t, "/proc/self/ns/net")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id := string(rune('a' + i))
			for range 10 {
				if _, err := d.Create(id); err != nil {
					t.Error(err)
				}
				if got := inode(t, "/proc/thread-self/ns/net"); got != home {
					t.Error("a goroutine runs in a phone's namespace")
				}
				if err := d.Delete(id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestDoCallsInTheNamespaceAndComesHome(t *testing.T) {
	d := newDir(t)
	path, err := d.Create("p1")
	if err != nil {
		t.Fatal(err)
	}
	home := inode(t, "/proc/self/ns/net")
	failure := errors.New("what it said")
	err = d.Do("p1", func() error {
		if got := inode(t, "/proc/thread-self/ns/net"); got != inode(t, path) {
			t.Error("called in another namespace")
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("Do = %v, want the function's error", err)
	}
	for range 20 {
		if got := inode(t, "/proc/thread-self/ns/net"); got != home {
			t.Fatal("a goroutine runs in a phone's namespace")
		}
		runtime.Gosched()
	}
	if err := d.Do("p2", func() error { return nil }); !errdefs.IsNotFound(err) {
		t.Errorf("Do in a namespace that does not exist = %v, want not found", err)
	}
}

func TestNamesThatAreNoFileNamesAreRefused(t *testing.T) {
	d := netns.New(t.TempDir())
	for _, id := range []string{"", ".", "..", "a/b", "../x", "a\x00b"} {
		if _, err := d.Create(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create(%q) = %v, want an invalid argument", id, err)
		}
		if err := d.Delete(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Delete(%q) = %v, want an invalid argument", id, err)
		}
	}
}
