package packages_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/packages"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
	testphone "github.com/phonehost/phonehost/scripts/testphone/packages"
)

// childEnv names what the test's own program does as the first process of a guest.
const childEnv = "PHONEHOST_PACKAGES_TEST_ROOT"

// The tests have mounts of their own.
func TestMain(m *testing.M) {
	root := os.Getenv(childEnv)
	if root == "" {
		os.Exit(netlab.Run(m))
	}
	if err := first(root); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// guest is the root directory of a guest, and what its programs do there.
type guest struct {
	t    testing.TB
	root string
}

func newGuest(t testing.TB) guest { return guest{t, t.TempDir()} }

func (g guest) ok(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// path is where a path of the guest is.
func (g guest) path(name string) string { return filepath.Join(g.root, name) }

func (g guest) mkdir(name string) guest {
	g.t.Helper()
	g.ok(os.MkdirAll(g.path(name), 0o755))
	return g
}

// put replaces the list as Android does.
func (g guest) put(text string) {
	g.t.Helper()
	g.ok(os.WriteFile(g.path(packages.Path+".tmp"), []byte(text), 0o640))
	g.rename(packages.Path+".tmp", packages.Path)
}

func (g guest) rename(from, to string) {
	g.t.Helper()
	g.ok(os.Rename(g.path(from), g.path(to)))
}

func (g guest) list() string {
	g.t.Helper()
	text, err := os.ReadFile(g.path(packages.Path))
	g.ok(err)
	return string(text)
}

// open opens the root as the agent does.
func (g guest) open() *os.File {
	g.t.Helper()
	return openRoot(g.t, g.root)
}

func openRoot(t testing.TB, path string) *os.File {
	t.Helper()
	root, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// device is testphone's package manager, which runs in a guest.
type device struct {
	guest
	*testphone.Manager
}

// boot makes the guest one with a launcher and starts its package manager, or starts it again.
func (g guest) boot() device {
	g.t.Helper()
	for _, dir := range []string{"data/app", "data/data", "data/user", "data/system", "system/priv-app/Launcher"} {
		g.mkdir(dir)
	}
	g.ok(os.WriteFile(g.path("system/priv-app/Launcher/Launcher.apk"), g.apk(apkmake.App{Package: "com.android.launcher", VersionCode: 1, TargetSDK: 34}), 0o644))
	m, err := testphone.Open(testphone.Config{Root: g.root, SDK: 34, Chown: func(string, int, int) error { return nil }})
	g.ok(err)
	return device{g, m}
}

// developer signs all apps of the tests.
var developer, errDeveloper = apkmake.NewKey("developer")

func (g guest) apk(app apkmake.App) []byte {
	g.t.Helper()
	g.ok(errDeveloper)
	apk, err := apkmake.Make(app, developer)
	g.ok(err)
	return apk
}

func (d device) install(app apkmake.App) {
	d.t.Helper()
	app.VersionCode, app.TargetSDK = 1, 34
	apk := d.apk(app)
	id, err := d.CreateSession(testphone.Params{})
	d.ok(err)
	d.ok(d.Write(id, "base.apk", int64(len(apk)), bytes.NewReader(apk)))
	_, err = d.Commit(id)
	d.ok(err)
}

// watcher makes a Watcher whose clocks are quick, or as good as stopped: then what is seen was told by inotify.
func watcher(t testing.TB, recheck time.Duration) *packages.Watcher {
	t.Helper()
	w := packages.NewWatcher(slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(w.Close)
	w.SetPace(recheck, 300*time.Millisecond, 3*time.Second)
	return w
}

const never = time.Hour

// next waits for the next update.
func next(t testing.TB, updates <-chan packages.Update) packages.Update {
	t.Helper()
	select {
	case u, ok := <-updates:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return u
	case <-time.After(time.Minute):
		t.Fatal("nothing was told for a minute")
	}
	return packages.Update{}
}

// wantList waits for an update that has exactly these packages and no error.
func wantList(t testing.TB, updates <-chan packages.Update, want ...string) {
	t.Helper()
	u := next(t, updates)
	if u.Err != nil || u.Table == nil || fmt.Sprint(names(u.Table.All())) != fmt.Sprint(want) {
		t.Fatalf("%v was told, %v; want %v", u.Table, u.Err, want)
	}
}

// first is the first process of a guest: it has a /data that nobody else sees, and ends with its standard input.
func first(root string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(root, "data"), "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /data: %w", err)
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// start starts the first process, and returns the guest as the agent reaches it, and what kills the process.
func (g guest) start() (inside guest, kill func()) {
	g.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+g.root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	g.ok(err)
	out, err := cmd.StdoutPipe()
	g.ok(err)
	g.ok(cmd.Start())
	kill = sync.OnceFunc(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	g.t.Cleanup(kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		g.t.Fatalf("the first process says %q, %v", line, err)
	}
	return guest{g.t, fmt.Sprintf("/proc/%d/root", cmd.Process.Pid)}, kill
}

// awaitList is wantList for a list that took several steps to come: a slow machine may see it missing between them.
func awaitList(t testing.TB, updates <-chan packages.Update, want ...string) {
	t.Helper()
	for {
		u := next(t, updates)
		if u.Err == nil && u.Table != nil && fmt.Sprint(names(u.Table.All())) == fmt.Sprint(want) {
			return
		}
		if !errdefs.IsNotFound(u.Err) {
			t.Fatalf("%v was told, %v; want %v", u.Table, u.Err, want)
		}
	}
}
