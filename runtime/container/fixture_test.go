package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/netpolicy/netns"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/image"
	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is an engine on a containerd of its own, with the testphone image.
type host struct {
	t          testing.TB
	containerd *testenv.ContainerdServer
	engine     *container.Engine
	config     container.Config
	networks   netns.Dir
	image      image.Image
}

func newHost(t testing.TB) *host {
	t.Helper()
	return newHostOn(t, func(string) {})
}

// newHostOn is newHost with a state directory of the test's own: lay is called with its path while it is empty, and may mount
// something there until the end of the test.
func newHostOn(t testing.TB, lay func(stateDir string)) *host {
	t.Helper()
	server := testenv.Containerd(t)
	// Not t.TempDir: the paths of sockets must be short.
	dir, err := os.MkdirTemp("", "phonehost-rt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o711); err != nil {
		t.Fatal(err)
	}
	lay(filepath.Join(dir, "state"))
	h := &host{t: t, containerd: server, networks: netns.New(filepath.Join(dir, "run", "netns"))}
	h.config = container.Config{
		Address: server.Address, Namespace: testenv.Namespace,
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log"),
		NetNSDir: filepath.Join(dir, "run", "netns"), CgroupRoot: "/" + filepath.Base(dir),
		DisplayBinary: testenv.Binary(t, "encoder/cmd/phone-display"), LogBinary: testenv.Binary(t, "runtime/cmd/phone-log"),
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	h.engine = h.open()
	t.Cleanup(h.close)
	data, err := os.ReadFile(testenv.Testphone(t))
	if err != nil {
		t.Fatal(err)
	}
	store, err := image.New(image.Config{Client: h.engine.Client()})
	if err != nil {
		t.Fatal(err)
	}
	if h.image, err = store.Import(t.Context(), "", bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) open() *container.Engine {
	h.t.Helper()
	e, err := container.New(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	return e
}

// close destroys every phone that the test left and checks that nothing of any is left on the host.
func (h *host) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	defer h.engine.Close()
	ids, err := h.engine.IDs(ctx)
	if err != nil {
		h.t.Errorf("list what is left: %v", err)
	}
	for _, id := range ids {
		if err := h.engine.Destroy(ctx, id); err != nil {
			h.t.Errorf("destroy: %v", err)
		}
	}
	names, err := h.networks.List()
	if err != nil {
		h.t.Error(err)
	}
	for _, name := range names {
		if err := h.networks.Delete(name); err != nil {
			h.t.Error(err)
		}
	}
	h.checkNothingLeft(ctx)
	for _, dir := range cgroupDirs(h.config.CgroupRoot) {
		if err := os.Remove(dir); err != nil {
			h.t.Errorf("remove the test's cgroup: %v", err)
		}
	}
}

// checkNothingLeft looks for containers, snapshots, directories, cgroups and loop devices of phones.
func (h *host) checkNothingLeft(ctx context.Context) {
	h.t.Helper()
	ids, err := h.engine.IDs(ctx)
	if err != nil || len(ids) != 0 {
		h.t.Errorf("phones left: %v, %v", ids, err)
	}
	h.noLoops("at the end")
	for _, dir := range cgroupDirs(h.config.CgroupRoot + "/*") {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			h.t.Errorf("cgroup left: %s", dir)
		}
	}
	for _, pattern := range []string{"state/phones/*", "run/phones/*", "run/exec/*", "run/runc/*/*", "log/*"} {
		left, err := filepath.Glob(filepath.Join(filepath.Dir(h.config.StateDir), pattern))
		if err != nil || len(left) != 0 {
			h.t.Errorf("left: %v, %v", left, err)
		}
	}
}

// cgroupDirs expands a pattern below every cgroup hierarchy.
func cgroupDirs(pattern string) []string {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	var dirs []string
	for line := range strings.Lines(string(info)) {
		before, after, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(after, "cgroup") {
			found, err := filepath.Glob(filepath.Join(strings.Fields(before)[4], pattern))
			if err != nil {
				panic(err)
			}
			dirs = append(dirs, found...)
		}
	}
	return dirs
}

// phone is a small testphone.
func (h *host) phone(id string, slot uint32) container.Phone {
	return container.Phone{
		ID: id, Slot: slot, Image: h.image.Name, ImageDigest: h.image.Digest, Profile: "testphone",
		VCPUs: 1.5, CPUWeight: 200, MemoryBytes: 256 << 20, DataBytes: 64 << 20,
		Display:        container.DisplaySpec{Width: 320, Height: 480, DPI: 160, FPS: 30},
		Properties:     map[string]string{"ro.test.greeting": "hello"},
		DataGeneration: 1, BootGeneration: 1,
	}
}

// prepare makes the phone's network namespace and what the engine prepares.
func (h *host) prepare(p container.Phone) {
	h.t.Helper()
	if _, err := h.networks.Create(p.ID); err != nil {
		h.t.Fatal(err)
	}
	if err := h.engine.Prepare(h.t.Context(), p); err != nil {
		h.t.Fatal(err)
	}
}

// start powers a phone on, as the agent does.
func (h *host) start(p container.Phone) {
	h.t.Helper()
	h.prepare(p)
	if err := h.engine.StartDisplay(h.t.Context(), p); err != nil {
		h.t.Fatal(err)
	}
	if err := h.engine.StartGuest(h.t.Context(), p); err != nil {
		h.t.Fatal(err)
	}
}

// off ends a phone, as the agent does.
func (h *host) off(id string) {
	h.t.Helper()
	if err := errors.Join(h.engine.RemoveGuest(h.t.Context(), id), h.engine.RemoveDisplay(h.t.Context(), id)); err != nil {
		h.t.Fatal(err)
	}
}

// shell runs a shell command in a guest, which must succeed, and returns what it prints.
func (h *host) shell(id, command string) string {
	h.t.Helper()
	code, out := h.exec(id, "sh", "-c", command)
	if code != 0 {
		h.t.Fatalf("%s: %s exited with %d: %s", id, command, code, out)
	}
	return out
}

// exec runs a command in a guest and returns its exit code and output.
func (h *host) exec(id string, args ...string) (uint32, string) {
	h.t.Helper()
	var out bytes.Buffer
	code, err := h.engine.Exec(h.t.Context(), id, container.ExecOptions{Args: args, Stdout: &out})
	if err != nil {
		h.t.Fatal(err)
	}
	return code, out.String()
}

// logLine waits until a log of the phone has a line that contains text, and returns it.
func (h *host) logLine(id string, role container.Role, text string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	var found string
	stop := fmt.Errorf("found")
	err := h.engine.ReadLog(ctx, id, role, container.LogOptions{Follow: true}, func(l container.LogLine) error {
		if strings.Contains(l.Text, text) {
			found = l.Text
			return stop
		}
		return nil
	})
	if err != stop {
		for _, role := range []container.Role{container.Guest, container.Display} {
			h.engine.ReadLog(context.WithoutCancel(ctx), id, role, container.LogOptions{TailLines: 50}, func(l container.LogLine) error {
				h.t.Logf("%s: %s", role, l.Text)
				return nil
			})
		}
		h.t.Fatalf("no line with %q in the %s log of %s: %v", text, role, id, err)
	}
	return found
}

// observe returns the phone's state.
func (h *host) observe(id string) container.Observation {
	h.t.Helper()
	o, err := h.engine.Observe(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return o
}

// files expands a pattern below the directory that holds everything of this host.
func (h *host) files(pattern string) []string {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(h.config.StateDir), pattern))
	if err != nil {
		h.t.Fatal(err)
	}
	return found
}

// snapshots lists the root snapshots of a phone.
func (h *host) snapshots(id string) []string {
	h.t.Helper()
	var keys []string
	err := h.engine.Client().SnapshotService("overlayfs").Walk(h.t.Context(), func(_ context.Context, i snapshots.Info) error {
		if strings.HasPrefix(i.Name, id+".") {
			keys = append(keys, i.Name)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return keys
}

// createRecord makes a container's record only.
func (h *host) createRecord(id string, spec *specs.Spec) {
	h.t.Helper()
	raw, err := typeurl.MarshalAny(spec)
	if err != nil {
		h.t.Fatal(err)
	}
	root, err := typeurl.MarshalAny(&options.Options{Root: filepath.Join(h.config.RunDir, "runc")})
	if err != nil {
		h.t.Fatal(err)
	}
	_, err = h.engine.Client().ContainerService().Create(h.t.Context(), containers.Container{
		ID: id, Spec: raw, Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2", Options: root},
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// createTask makes the task of a container without a snapshot and does not start it.
func (h *host) createTask(id string) {
	h.t.Helper()
	if _, err := h.engine.Client().TaskService().Create(h.t.Context(), &tasks.CreateTaskRequest{ContainerID: id}); err != nil {
		h.t.Fatal(err)
	}
}
