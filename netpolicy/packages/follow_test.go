package packages_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/packages"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// line is a list of one package.
func line(name string) string { return name + " 10001 0 /data/user/0/" + name + " default none\n" }

// wantErr waits for an error, beside which the last list is told still.
func wantErr(t testing.TB, updates <-chan packages.Update, class error, text, list string) {
	t.Helper()
	u := next(t, updates)
	got := ""
	if u.Table != nil {
		got = u.Table.All()[0].Name
	}
	if !errors.Is(u.Err, class) || !strings.Contains(u.Err.Error(), text) || got != list {
		t.Fatalf("the list is %q, the error %v; want %q and a %v that says %q", got, u.Err, list, class, text)
	}
}

// TestFollow has a list change in every way. There is no clock: what is seen was told by the kernel.
func TestFollow(t *testing.T) {
	g := newGuest(t).mkdir("data/system")
	g.put(line("a"))
	updates := watcher(t, never).Follow(t.Context(), g.open())
	wantList(t, updates, "a")

	g.put(line("b"))
	wantList(t, updates, "b")
	g.put(line("b")) // which is nothing new
	g.put(line("c"))
	wantList(t, updates, "c")

	g.put("half a li")
	wantErr(t, updates, errdefs.ErrDataLoss, `/data/system/packages.list: line 1: "half a li" has no end`, "c")
	g.put("half a list\n")
	wantErr(t, updates, errdefs.ErrDataLoss, `line 1: "half a list" has 3 fields`, "c")
	g.put(line("c"))
	wantList(t, updates, "c")

	g.ok(os.Remove(g.path(packages.Path)))
	wantErr(t, updates, errdefs.ErrNotFound, "there is no /data/system/packages.list", "c")
	g.put(line("d"))
	wantList(t, updates, "d")

	g.rename(packages.Path, "data/away")
	wantErr(t, updates, errdefs.ErrNotFound, "there is no /data/system/packages.list", "d")
	g.rename("data/away", packages.Path)
	wantList(t, updates, "d")

	g.ok(os.WriteFile(g.path(packages.Path), []byte(line("e")), 0o600)) // in place
	wantList(t, updates, "e")

	g.ok(os.WriteFile(g.path("data/linked"), []byte(line("f")), 0o600))
	g.ok(os.Remove(g.path(packages.Path)))
	g.ok(os.Link(g.path("data/linked"), g.path(packages.Path)))
	awaitList(t, updates, "f")
}

// TestFollowLasting has a list be damaged, in one way and another, for less than what is worth an error.
func TestFollowLasting(t *testing.T) {
	g := newGuest(t).mkdir("data/system")
	g.put(line("a"))
	w := watcher(t, never)
	w.SetPace(never, never, time.Minute)
	updates := w.Follow(t.Context(), g.open())
	wantList(t, updates, "a")
	read := reads(g)
	for _, text := range []string{"bad\n", "worse\n", "worst\n"} {
		g.put(text)
		read()
	}
	g.put(line("b"))
	wantList(t, updates, "b")
}

// reads returns what waits until somebody has read a list.
func reads(g guest) (wait func()) {
	g.t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	g.ok(err)
	f := os.NewFile(uintptr(fd), "inotify")
	g.t.Cleanup(func() { f.Close() })
	_, err = unix.InotifyAddWatch(fd, g.path("data/system"), unix.IN_CLOSE_NOWRITE)
	g.ok(err)
	g.ok(f.SetReadDeadline(time.Now().Add(time.Minute)))
	return func() {
		g.t.Helper()
		_, err := f.Read(make([]byte, unix.SizeofInotifyEvent+unix.NAME_MAX+1))
		g.ok(err)
	}
}

// TestFollowDirectories begins before the guest has made anything, and goes on when it replaces its directories.
func TestFollowDirectories(t *testing.T) {
	g := newGuest(t)
	updates := watcher(t, never).Follow(t.Context(), g.open())
	wantErr(t, updates, errdefs.ErrNotFound, "there is no /data:", "")
	g.mkdir("data")
	wantErr(t, updates, errdefs.ErrNotFound, "there is no /data/system:", "")
	g.mkdir("data/system")
	wantErr(t, updates, errdefs.ErrNotFound, "there is no /data/system/packages.list:", "")
	g.put(line("a"))
	wantList(t, updates, "a")

	for i, dir := range []string{"data/system", "data", "data/system"} {
		g.rename(dir, fmt.Sprintf("away%d", i))
		g.mkdir("data/system")
		g.put(line(fmt.Sprintf("b%d", i)))
		awaitList(t, updates, fmt.Sprintf("b%d", i))
		g.put(line(fmt.Sprintf("c%d", i))) // in the new directory
		wantList(t, updates, fmt.Sprintf("c%d", i))
	}
	g.ok(os.RemoveAll(g.path("data")))
	wantErr(t, updates, errdefs.ErrNotFound, "there is no /data:", "c2")
}

// TestFollowMounts has /data's mount come after the guest's root, and go again, of which the kernel tells nobody.
func TestFollowMounts(t *testing.T) {
	testenv.Root(t)
	g := newGuest(t).mkdir("data/system")
	g.put(line("under"))
	updates := watcher(t, 50*time.Millisecond).Follow(t.Context(), g.open())
	wantList(t, updates, "under")
	mount(g, "tmpfs", "data", 0)
	wantErr(t, updates, errdefs.ErrNotFound, "there is no /data/system:", "under")
	g.mkdir("data/system").put(line("over"))
	awaitList(t, updates, "over")
	for { // following does not keep a file system, but for the moment of a look
		if err := unix.Unmount(g.path("data"), 0); !errors.Is(err, unix.EBUSY) {
			g.ok(err)
			break
		}
	}
	wantList(t, updates, "under")
}

// TestFollowProcess follows a guest that has mounts of its own, by its first process.
func TestFollowProcess(t *testing.T) {
	testenv.Root(t)
	g := newGuest(t).mkdir("data")
	inside, kill := g.start()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	updates := watcher(t, never).Follow(ctx, inside.open())
	wantErr(t, updates, errdefs.ErrNotFound, "there is no /data/system:", "")
	inside.mkdir("data/system").put(line("a"))
	awaitList(t, updates, "a")
	if left, err := os.ReadDir(g.path("data")); err != nil || len(left) > 0 {
		t.Fatalf("the host's directory has %v, %v: the guest has no mount of its own", left, err)
	}
	inside.put(line("b"))
	wantList(t, updates, "b")
	kill() // with the file system its watches go, and what is looked at is below the mount
	wantErr(t, updates, errdefs.ErrNotFound, "there is no /data/system:", "b")
	cancel()
	if u, open := <-updates; open {
		t.Errorf("%v was told after the end", u)
	}
}

// TestFollowByClock follows where the host has no inotify instance left.
func TestFollowByClock(t *testing.T) {
	g := newGuest(t).mkdir("data/system")
	w := watcher(t, 20*time.Millisecond)
	w.Close()
	updates := w.Follow(t.Context(), g.open())
	wantErr(t, updates, errdefs.ErrNotFound, packages.Path, "")
	for _, name := range []string{"a", "b"} {
		g.put(line(name))
		wantList(t, updates, name)
	}
	g.put("bad\n")
	wantErr(t, updates, errdefs.ErrDataLoss, "line 1", "b")
	g.put(line("b"))
	wantList(t, updates, "b")
}

// TestFollowBurst has a list change as fast as it can: what is told is little, and the last is right.
func TestFollowBurst(t *testing.T) {
	g := newGuest(t).mkdir("data/system")
	updates := watcher(t, never).Follow(t.Context(), g.open())
	const changes = 2000
	done := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(done)
		for i := range changes {
			g.put(line(fmt.Sprintf("p%d", i)))
		}
	}()
	told := 0
	for last := ""; last != fmt.Sprintf("p%d", changes-1); told++ {
		u := next(t, updates)
		if u.Err != nil {
			t.Fatal(u.Err)
		}
		last = u.Table.All()[0].Name
	}
	<-done
	if most := int(time.Since(began)/packages.Gap) + 2; told > most {
		t.Errorf("%d updates were told in %v; want at most %d", told, time.Since(began), most)
	}
	t.Logf("%d changes were told by %d updates in %v", changes, told, time.Since(began))
}

// TestFollowSlowly receives nothing while lists come and go: the newest waits.
func TestFollowSlowly(t *testing.T) {
	g := newGuest(t).mkdir("data/system")
	g.put(line("a"))
	w := watcher(t, never)
	slow, quick := w.Follow(t.Context(), g.open()), w.Follow(t.Context(), g.open())
	for _, name := range []string{"a", "b", "c"} {
		g.put(line(name))
		wantList(t, quick, name)
	}
	g.put("damaged\n")
	wantErr(t, quick, errdefs.ErrDataLoss, "damaged", "c")
	// What waits may be the last but one, if the other goroutine is behind, and a look may be under way that began before.
	for received := 1; ; received++ {
		u := next(t, slow)
		if u.Err != nil && u.Table != nil {
			break
		}
		if received == 3 {
			t.Fatalf("the third update is %v, %v; want the error beside the newest list", u.Table, u.Err)
		}
	}
}

// TestFollowTricks has a guest put everything but a list in the place of the list, and then a list.
func TestFollowTricks(t *testing.T) {
	for _, tr := range tricks {
		t.Run(tr.name, func(t *testing.T) {
			g, undo := tr.do(t)
			updates := watcher(t, 50*time.Millisecond).Follow(t.Context(), g.open())
			wantErr(t, updates, tr.class, tr.want, "")
			undo()
			g.put(line("a"))
			for u := next(t, updates); u.Table == nil; u = next(t, updates) {
				if !errdefs.IsNotFound(u.Err) {
					t.Fatal(u.Err)
				}
			}
		})
	}
}

// TestFollowHangs has a guest whose file system never answers: nobody waits for it.
func TestFollowHangs(t *testing.T) {
	for name, options := range map[string]string{
		"looking up": "allow_other",                     // "system" in /data
		"watching":   "allow_other,default_permissions", // /data, whose mode is asked for first
	} {
		t.Run(name, func(t *testing.T) {
			testenv.Root(t)
			device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Skipf("there is no FUSE: %v", err)
			}
			release := func() { unix.Close(device) } // ends all that waits
			bad, good := newGuest(t).mkdir("data"), newGuest(t).mkdir("data/system")
			if err := unix.Mount("guest", bad.path("data"), "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40755,user_id=0,group_id=0,%s", device, options)); err != nil {
				release()
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(bad.path("data"), unix.MNT_DETACH) })

			before := goleak.IgnoreCurrent()
			w := watcher(t, 20*time.Millisecond)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			hangs, goes := w.Follow(ctx, bad.open()), w.Follow(ctx, good.open())
			wantErr(t, goes, errdefs.ErrNotFound, packages.Path, "")
			wantErr(t, hangs, errdefs.ErrUnavailable, "the guest's file system has not answered for 3s", "")
			if watching := w.Adding() == 1; watching != (name == "watching") {
				t.Errorf("%d calls wait to add a watch", w.Adding())
			}
			good.put(line("a"))
			wantList(t, goes, "a")
			cancel()
			for _, updates := range []<-chan packages.Update{hangs, goes} {
				for u := range updates {
					t.Errorf("%v was told after the end", u)
				}
			}
			w.Close() // does not wait either
			release()
			goleak.VerifyNone(t, before) // the goroutine that waited is gone
		})
	}
}

// TestFollowEnds ends some of those that follow a list.
func TestFollowEnds(t *testing.T) {
	g := newGuest(t).mkdir("data/system")
	g.put(line("a"))
	w := watcher(t, never)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ends, stays := w.Follow(ctx, g.open()), w.Follow(t.Context(), g.open())
	wantList(t, ends, "a")
	wantList(t, stays, "a")
	if watches, followed := w.Watches(); watches != 3 || followed != 6 {
		t.Errorf("there are %d watches for %d; want 3 for 6", watches, followed)
	}
	cancel()
	if u, open := <-ends; open {
		t.Errorf("%v was told after the end", u)
	}
	if watches, followed := w.Watches(); watches != 3 || followed != 3 {
		t.Errorf("there are %d watches for %d; want 3 for 3", watches, followed)
	}
	g.put(line("b"))
	wantList(t, stays, "b")

	ctx, cancel = context.WithCancel(t.Context())
	last := w.Follow(ctx, newGuest(t).open())
	wantErr(t, last, errdefs.ErrNotFound, "/data", "")
	if watches, _ := w.Watches(); watches != 4 {
		t.Errorf("there are %d watches; want 4", watches)
	}
	cancel()
	for range last {
	}
	if watches, followed := w.Watches(); watches != 3 || followed != 3 {
		t.Errorf("there are %d watches for %d; want 3 for 3", watches, followed)
	}
	w.Close()
	g.put(line("c"))
	select {
	case u := <-stays:
		t.Errorf("%v was told by a closed watcher without a clock", u)
	default:
	}
}

// TestOverflow has the kernel say that it has dropped events: everything is looked at.
func TestOverflow(t *testing.T) {
	g := newGuest(t).mkdir("data/system")
	g.put(line("a"))
	w := watcher(t, never)
	updates := w.Follow(t.Context(), g.open())
	wantList(t, updates, "a")
	f, err := os.OpenFile(g.path(packages.Path), os.O_WRONLY, 0)
	g.ok(err)
	_, err = f.WriteAt([]byte("b"), 0) // a change that nobody is told of while the file is open
	g.ok(err)
	event := make([]byte, unix.SizeofInotifyEvent)
	binary.NativeEndian.PutUint32(event, ^uint32(0))
	binary.NativeEndian.PutUint32(event[4:], unix.IN_Q_OVERFLOW)
	w.Dispatch(event)
	wantList(t, updates, "b")
	g.ok(f.Close())
}

// TestFollowDevice follows the list that testphone's package manager keeps.
func TestFollowDevice(t *testing.T) {
	d := newGuest(t).boot()
	updates := watcher(t, never).Follow(t.Context(), d.open())
	wantList(t, updates, "com.android.launcher")
	d.install(apkmake.App{Package: "com.example.a", SharedUserID: "com.example.shared"})
	wantList(t, updates, "com.android.launcher", "com.example.a")
	d.install(apkmake.App{Package: "com.example.b", SharedUserID: "com.example.shared"})
	u := next(t, updates)
	a, _ := u.Table.ByName("com.example.a")
	if shared := names(u.Table.ByAppID(a.AppID)); fmt.Sprint(shared) != "[com.example.a com.example.b]" {
		t.Errorf("%q have the app id of com.example.a", shared)
	}
	d.ok(d.Uninstall("com.example.a", false))
	wantList(t, updates, "com.android.launcher", "com.example.b")
	d.ok(d.Uninstall("com.example.b", false))
	wantList(t, updates, "com.android.launcher")
	d.install(apkmake.App{Package: "com.example.c"})
	u = next(t, updates)
	if c, found := u.Table.ByName("com.example.c"); !found || packages.KindOf(c.AppID) != packages.App {
		t.Errorf("com.example.c is known %v: %+v", found, c)
	}
}
