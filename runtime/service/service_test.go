package service_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/ocispec"
	"github.com/phonehost/phonehost/runtime/service"
	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const uid = 1_999_998

// lab is a Host on a containerd of its own, and a service.
type lab struct {
	t    *testing.T
	ctrd *testenv.ContainerdServer
	host *service.Host
	dir  string
	spec service.Spec
}

// newLab makes a lab whose service is the test's program: see runtime/service/testservice.
func newLab(t *testing.T) *lab {
	t.Helper()
	server := testenv.Containerd(t)
	dir, err := os.MkdirTemp("", "phonehost-svc-") // paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	host, err := service.New(service.Config{
		Client: server.Client(t), StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log"),
		CgroupRoot: "/" + filepath.Base(dir), LogBinary: testenv.Binary(t, "runtime/cmd/phone-log"),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, ctrd: server, host: host, dir: dir}
	l.spec = service.Spec{
		Name: "probe", Binary: testenv.PureBinary(t, "runtime/service/testservice"), Args: []string{"serve"}, UID: uid,
		Capabilities: []string{"CAP_NET_BIND_SERVICE"}, Binds: []ocispec.Bind{{Source: "/etc", Destination: "/mnt/etc"}},
		Files: map[string][]byte{"greeting": []byte("hello")}, MemoryBytes: 64 << 20, PIDs: 32, OpenFiles: 256, Ready: ready,
	}
	t.Cleanup(l.close)
	return l
}

// ready waits for the file that the service writes when it has looked around.
func ready(ctx context.Context, i service.Instance) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(filepath.Join(i.RunDir, "ready")); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close removes the service and checks that nothing of it is left.
func (l *lab) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.host.Remove(ctx, "probe"); err != nil {
		l.t.Error(err)
	}
	if all, err := l.host.Observe(ctx, "probe"); err != nil || len(all) != 0 {
		l.t.Errorf("left: %v, %v", all, err)
	}
	for _, pattern := range []string{l.dir + "/run/services/*", l.dir + "/state/services/*", "/sys/fs/cgroup/*/" + filepath.Base(l.dir) + "/.services/*", "/sys/fs/cgroup/" + filepath.Base(l.dir) + "/.services/probe*"} {
		left, err := filepath.Glob(pattern)
		if err != nil {
			l.t.Fatal(err)
		}
		for _, path := range left {
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				l.t.Errorf("left: %s", path)
			}
		}
	}
	for _, mount := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} { // the test's own parents
		for _, below := range []string{"/.services", ""} {
			dirs, _ := filepath.Glob(mount + filepath.Base(l.dir) + below)
			for _, dir := range dirs {
				if err := os.Remove(dir); err != nil {
					l.t.Error(err)
				}
			}
		}
	}
}

func (l *lab) ensure() service.Instance {
	l.t.Helper()
	i, err := l.host.Ensure(l.t.Context(), l.spec)
	if err != nil {
		l.t.Fatal(err)
	}
	return i
}

// one checks that an instance is the only one, and runs.
func (l *lab) one(i service.Instance) {
	l.t.Helper()
	all, err := l.host.Observe(l.t.Context(), "probe")
	if err != nil || len(all) != 1 || all[0].ID != i.ID || !all[0].Running {
		l.t.Errorf("there are %+v, %v; want only %s, running", all, err, i.ID)
	}
}

func TestEnsure(t *testing.T) {
	l := newLab(t)
	first := l.ensure()
	l.one(first)
	if again := l.ensure(); again.ID != first.ID {
		t.Errorf("the same spec started %s beside %s", again.ID, first.ID)
	}
	// What it found of the world, and could do in it.
	text, err := os.ReadFile(filepath.Join(first.RunDir, "ready"))
	want := fmt.Sprintf(`uid %d
capabilities %016x, no new privileges 1
greeting hello
write /config/greeting: read-only file system
write /mnt/etc/new: read-only file system
write /new: read-only file system
write /mnt/new: permission denied
bind port 53: ok
raw socket: operation not permitted
bpf: function not implemented
files in /: config dev mnt proc run service
`, uid, 1<<unix.CAP_NET_BIND_SERVICE)
	if err != nil || string(text) != want {
		t.Errorf("it says\n%s%v, want\n%s", text, err, want)
	}

	for what, change := range map[string]func(){
		"a file":   func() { l.spec.Files = map[string][]byte{"greeting": []byte("good morning")} },
		"a limit":  func() { l.spec.MemoryBytes *= 2 },
		"a binary": func() { l.spec.Binary = l.changed(l.spec.Binary) },
	} {
		before := l.ensure()
		change()
		after := l.ensure()
		if after.ID == before.ID || after.Version == before.Version {
			t.Errorf("%s changed and %s stayed", what, before.ID)
		}
		l.one(after)
		// The old one was asked to end, after the new one was ready.
		log, err := os.ReadFile(filepath.Join(l.dir, "log", "services", "probe.log"))
		if err != nil || !strings.Contains(string(log), "asked to end, "+strings.TrimPrefix(before.ID, "service.probe.")) {
			t.Errorf("%s changed: the log says\n%s%v", what, log, err)
		}
	}
	roots, _ := filepath.Glob(l.dir + "/state/services/probe/[^.]*")
	if len(roots) != 1 {
		t.Errorf("roots: %v", roots)
	}
}

// changed is another program that does the same.
func (l *lab) changed(program string) string {
	l.t.Helper()
	content, err := os.ReadFile(program)
	if err != nil {
		l.t.Fatal(err)
	}
	path := filepath.Join(l.t.TempDir(), "changed")
	if err := os.WriteFile(path, append(content, 0), 0o755); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// TestWhatIsNotReadyReplacesNothing starts versions that end, and that never are ready.
func TestWhatIsNotReadyReplacesNothing(t *testing.T) {
	l := newLab(t)
	good, args := l.ensure(), l.spec.Args
	l.spec.Args = []string{"end"}
	if _, err := l.host.Ensure(t.Context(), l.spec); err == nil || !strings.Contains(err.Error(), "it ended with 3") {
		t.Errorf("one that ends: %v", err)
	}
	l.one(good)
	l.spec.Args = []string{"hang"}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := l.host.Ensure(ctx, l.spec); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that hangs: %v", err)
	}
	l.one(good)
	l.spec.Args = args
	if i := l.ensure(); i.ID != good.ID {
		t.Errorf("then the spec of %s started %s", good.ID, i.ID)
	}
	l.spec.Name = "Probe!"
	if _, err := l.host.Ensure(t.Context(), l.spec); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a wrong name: %v", err)
	}
}

// TestKeep kills an instance, changes the spec, and kills containerd, under a keeper.
func TestKeep(t *testing.T) {
	l := newLab(t)
	ctx, stop := context.WithCancel(t.Context())
	specs, changes, done := make(chan service.Spec), make(chan service.Change, 64), make(chan struct{})
	go func() {
		defer close(done)
		l.host.Keep(ctx, specs, func(c service.Change) { changes <- c })
	}()
	defer func() { stop(); <-done }()
	next := func(what string, ok func(service.Change) bool) service.Instance {
		t.Helper()
		limit := time.After(time.Minute)
		for {
			select {
			case c := <-changes:
				if ok(c) {
					return c.Instance
				}
				if c.Err == nil {
					t.Fatalf("waited for %s: %+v", what, c)
				}
			case <-limit:
				t.Fatalf("waited in vain for %s", what)
			}
		}
	}
	ready := func(c service.Change) bool { return c.Err == nil && !c.Ended }
	specs <- l.spec
	first := next("a start", ready)
	if err := unix.Kill(int(first.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if last := next("an end", func(c service.Change) bool { return c.Ended }); last.ID != first.ID || last.ExitCode != 137 {
		t.Errorf("what ended is %+v", last)
	}
	second := next("another start", ready)
	l.one(second)

	l.spec.Files = map[string][]byte{"greeting": []byte("hi")}
	specs <- l.spec
	third := next("the changed one", ready)
	l.one(third)

	l.ctrd.Kill()
	next("containerd's end", func(c service.Change) bool { return errdefs.IsUnavailable(c.Err) })
	l.ctrd.Restart()
	if back := next("containerd's return", ready); back.ID != third.ID || unix.Kill(int(third.PID), 0) != nil {
		t.Errorf("after containerd's restart %s runs, and before it %s", back.ID, third.ID)
	}
	stop()
	<-done
	l.one(third)
}
