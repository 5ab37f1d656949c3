package container_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/phonehost/phonehost/runtime/container"
)

func TestNewSaysWhatToStart(t *testing.T) {
	dir := t.TempDir()
	_, err := container.New(container.Config{
		Address: dir + "/no.sock", StateDir: dir, RunDir: dir, LogDir: dir, NetNSDir: dir, DisplayBinary: dir + "/d", LogBinary: dir + "/l",
	})
	if !errdefs.IsUnavailable(err) {
		t.Errorf("New = %v, want unavailable", err)
	}
	for _, want := range []string{dir + "/no.sock", "apt-get install containerd runc", "systemctl start containerd"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

func TestNewRefusesPaths(t *testing.T) {
	good := container.Config{StateDir: "/s", RunDir: "/r", LogDir: "/l", NetNSDir: "/n", DisplayBinary: "/d", LogBinary: "/b"}
	for name, change := range map[string]func(*container.Config){
		"relative":                func(c *container.Config) { c.StateDir = "state" },
		"missing":                 func(c *container.Config) { c.LogBinary = "" },
		"the root of all cgroups": func(c *container.Config) { c.CgroupRoot = "//" },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			change(&c)
			if _, err := container.New(c); !errdefs.IsInvalidArgument(err) {
				t.Errorf("New = %v, want an invalid argument", err)
			}
		})
	}
}

// TestOthersFilesStay puts a directory that looks like a phone's among the logs.
func TestOthersFilesStay(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	other := filepath.Join(h.config.LogDir, "apt")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	ids, err := h.engine.IDs(t.Context())
	if diff := cmp.Diff([]string{"p1"}, ids); diff != "" || err != nil {
		t.Errorf("IDs: %v %s", err, diff)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
}

// waitEvent returns the next event of that kind, and fails after a minute.
func waitEvent(t *testing.T, events <-chan container.Event, kind container.EventKind) container.Event {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the events ended while waiting for %v", kind)
			}
			if e.Kind == kind {
				return e
			}
		case <-limit:
			t.Fatalf("no event %v within a minute", kind)
		}
	}
}

// booted waits until the guest says that it has booted.
func (h *host) booted(id string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	for {
		done, seen, err := h.engine.BootCompleted(ctx, id)
		if err != nil {
			h.t.Fatal(err)
		}
		if done {
			return
		}
		h.t.Logf("not booted yet: %s", seen)
	}
}

// TestPhoneLives goes through a phone's life: start, boot, reboots, shutdown, reset, destruction.
func TestPhoneLives(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := h.engine.Events(ctx)
	waitEvent(t, events, container.Back)
	began := time.Now()

	p := h.phone("p1", 7)
	h.start(p)
	first := h.observe("p1")
	guest := container.Task{
		Container: true, State: container.TaskRunning, BootGeneration: 1, DataGeneration: 1, ImageDigest: h.image.Digest,
		Cgroup: h.config.CgroupRoot + "/p1/guest/ctr",
	}
	display := guest
	display.Cgroup = h.config.CgroupRoot + "/p1/display"
	ignored := cmpopts.IgnoreFields(container.Task{}, "PID", "StartedAt", "Version")
	guest.MemoryBytes = p.MemoryBytes
	if diff := cmp.Diff(container.Observation{Guest: guest, Display: display}, first, ignored); diff != "" {
		t.Error(diff)
	}
	if d := first.Guest.StartedAt.Sub(began); d < -time.Second || d > time.Minute {
		t.Errorf("the guest started %v after the test began", d)
	}
	if shims := h.containerd.Shims(); len(shims) != 1 {
		t.Errorf("%d shims run, want one for both containers", len(shims))
	}
	h.logLine("p1", container.Guest, "first frame shown")
	h.booted("p1")
	if code, out := h.exec("p1", "getprop", "ro.test.greeting"); code != 0 || out != "hello\n" {
		t.Errorf("getprop = %d, %q", code, out)
	}

	h.start(p) // changes nothing
	if diff := cmp.Diff(first, h.observe("p1"), cmpopts.IgnoreFields(container.Task{}, "StartedAt")); diff != "" {
		t.Errorf("a second start changed something: %s", diff)
	}

	h.exec("p1", "sh", "-c", "echo kept > /data/kept")
	for range 3 {
		p.BootGeneration++
		h.exec("p1", "reboot")
		exit := waitEvent(t, events, container.Exited)
		if exit.PhoneID != "p1" || exit.Role != container.Guest || exit.ExitCode != 129 {
			t.Fatalf("after a reboot: %+v, want an exit of p1's guest with 129", exit)
		}
		if o := h.observe("p1"); o.Guest.State != container.TaskStopped || o.Guest.ExitCode != 129 || o.Guest.ExitedAt.IsZero() {
			t.Fatalf("after a reboot: %+v", o.Guest)
		}
		h.start(p)
		o := h.observe("p1")
		if o.Guest.State != container.TaskRunning || o.Guest.BootGeneration != p.BootGeneration || o.Display.PID != first.Display.PID {
			t.Fatalf("after the guest's restart: %+v, the display's pid was %d", o, first.Display.PID)
		}
		h.booted("p1")
	}
	if code, out := h.exec("p1", "cat", "/data/kept"); code != 0 || out != "kept\n" {
		t.Errorf("after reboots /data/kept is %q, exit %d", out, code)
	}

	if err := h.engine.Shutdown(ctx, "p1"); err != nil {
		t.Fatal(err)
	}
	if exit := waitEvent(t, events, container.Exited); exit.ExitCode != 130 || exit.Role != container.Guest {
		t.Errorf("after a shutdown: %+v, want 130", exit)
	}

	// A reset begins the next generation beside the old one.
	p.DataGeneration = 2
	h.start(p)
	if err := h.engine.KeepGeneration(ctx, "p1", 2); err != nil {
		t.Fatal(err)
	}
	h.booted("p1")
	if code, out := h.exec("p1", "cat", "/data/kept"); code == 0 {
		t.Errorf("after a reset /data/kept is %q", out)
	}
	if images := h.files("state/phones/p1/*"); len(images) != 1 || filepath.Base(images[0]) != "data-2.img" {
		t.Errorf("data images after a reset: %v", images)
	}
	if keys := h.snapshots("p1"); len(keys) != 1 || !strings.HasPrefix(keys[0], "p1.root.2.") {
		t.Errorf("snapshots after a reset: %v", keys)
	}

	if err := h.engine.Destroy(ctx, "p1"); err != nil {
		t.Fatal(err)
	}
	h.checkNothingLeft(ctx)
	if err := h.engine.Destroy(ctx, "p1"); err != nil {
		t.Errorf("destroying a phone that is gone: %v", err)
	}
	if o := h.observe("p1"); o != (container.Observation{}) {
		t.Errorf("a phone that is gone: %+v", o)
	}
	if shims := h.containerd.Shims(); len(shims) != 0 {
		t.Errorf("shims are left: %v", shims)
	}
}

// TestDisplayIsReplacedUnderTheGuest kills a display: the next one serves in the same directory, and the guest runs on.
func TestDisplayIsReplacedUnderTheGuest(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := h.phone("p1", 0)
	h.start(p)
	h.logLine("p1", container.Guest, "first frame shown")
	before := h.observe("p1")
	events := h.engine.Events(ctx)
	waitEvent(t, events, container.Back)
	if err := h.engine.Kill(ctx, "p1", container.Display); err != nil {
		t.Fatal(err)
	}
	if exit := waitEvent(t, events, container.Exited); exit.Role != container.Display || exit.ExitCode != 137 {
		t.Errorf("exit = %+v, want the display's with 137", exit)
	}
	if err := h.engine.StartDisplay(ctx, p); err != nil {
		t.Fatal(err)
	}
	after := h.observe("p1")
	if after.Display.State != container.TaskRunning || after.Display.PID == before.Display.PID || after.Guest.PID != before.Guest.PID {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// TestAnotherEngineContinues closes an engine and opens another, as an agent's restart does.
func TestAnotherEngineContinues(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	before := h.observe("p1")
	if err := h.engine.Close(); err != nil {
		t.Fatal(err)
	}
	h.engine = h.open()
	if diff := cmp.Diff(before, h.observe("p1"), cmpopts.IgnoreFields(container.Task{}, "StartedAt")); diff != "" {
		t.Error(diff)
	}
	ids, err := h.engine.IDs(t.Context())
	if diff := cmp.Diff([]string{"p1"}, ids); diff != "" || err != nil {
		t.Errorf("IDs: %v %s", err, diff)
	}
	h.start(p)
	if after := h.observe("p1"); after.Guest.PID != before.Guest.PID {
		t.Error("the guest was started again")
	}
}

// TestFormerCgroupRoot opens an engine with another cgroup root over a phone that runs and one that is off. The first stays whole where it
// is until it starts again; then nothing is left there of either.
func TestFormerCgroupRoot(t *testing.T) {
	h := newHost(t)
	p1, p2 := h.phone("p1", 0), h.phone("p2", 1)
	h.start(p1)
	h.prepare(p2)
	before := h.observe("p1")
	if err := h.engine.Close(); err != nil {
		t.Fatal(err)
	}
	former := h.config.CgroupRoot
	h.config.CgroupRoot, h.config.FormerCgroupRoots = former+"-next", []string{former}
	h.engine = h.open()

	before.Guest.Outside, before.Display.Outside = true, true
	h.start(p1) // changes nothing
	if diff := cmp.Diff(before, h.observe("p1"), cmpopts.IgnoreFields(container.Task{}, "StartedAt")); diff != "" {
		t.Errorf("the phone that runs: %s", diff)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := h.engine.Events(ctx)
	waitEvent(t, events, container.Back)
	end := func(role container.Role) {
		t.Helper()
		if err := h.engine.Kill(ctx, "p1", role); err != nil {
			t.Fatal(err)
		}
		waitEvent(t, events, container.Exited)
	}
	end(container.Display)
	if err := h.engine.StartDisplay(ctx, p1); err != nil {
		t.Fatal(err)
	}
	o := h.observe("p1")
	if o.Display.Cgroup != former+"/p1/display" || !o.Display.Outside || o.Guest.PID != before.Guest.PID {
		t.Errorf("a display that starts under its guest: %+v", o)
	}
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", o.Display.PID))
	if err != nil || !strings.Contains(string(cgroups), ":"+former+"/p1/display\n") {
		t.Errorf("its process is in %s, %v", cgroups, err)
	}
	end(container.Guest)
	if err := h.engine.RemoveDisplay(ctx, "p1"); err != nil {
		t.Fatal(err)
	}
	p1.BootGeneration++
	h.start(p1)
	o = h.observe("p1")
	if o.Guest.Outside || o.Display.Outside || o.Guest.Cgroup != h.config.CgroupRoot+"/p1/guest/ctr" {
		t.Errorf("after the next start: %+v", o)
	}
	h.booted("p1")
	if left := cgroupDirs(former + "/p1"); len(left) != 0 {
		t.Errorf("cgroups are left of a phone that has moved: %v", left)
	}
	if ids, err := h.engine.IDs(ctx); err != nil || !slices.Equal(ids, []string{"p1", "p2"}) {
		t.Errorf("IDs = %v, %v", ids, err)
	}
	if err := h.engine.Destroy(ctx, "p2"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range cgroupDirs(former) {
		if err := os.Remove(dir); err != nil {
			t.Errorf("something is left below the former root: %v", err)
		}
	}
}

// TestStartFinishesWhatACrashLeft leaves a container without a task, and a task that was never started.
func TestStartFinishesWhatACrashLeft(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.prepare(p)
	guest, display, err := h.engine.Specs(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	h.createRecord("p1", guest)
	h.createRecord("p1.display", display)
	h.createTask("p1.display")
	if o := h.observe("p1"); o.Display.State != container.TaskCreated || !o.Guest.Container || o.Guest.State != container.TaskNone {
		t.Fatalf("the crash was not made: %+v", o)
	}
	h.start(p)
	if o := h.observe("p1"); o.Display.State != container.TaskRunning || o.Guest.State != container.TaskRunning {
		t.Errorf("after the start: %+v", o)
	}
	h.booted("p1")
}

func TestStartThatCannotLeavesNothing(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.prepare(p)
	if err := h.networks.Delete("p1"); err != nil { // the guest cannot enter a namespace that is not there
		t.Fatal(err)
	}
	if err := h.engine.StartDisplay(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := h.engine.StartGuest(t.Context(), p); err == nil {
		t.Error("a guest without a network namespace started")
	}
	if o := h.observe("p1"); o.Guest.Container || o.Display.State != container.TaskRunning {
		t.Errorf("after the start: %+v", o)
	}
	h.noLoops("after the start")
}

func TestPrepareRefuses(t *testing.T) {
	h := newHost(t)
	good := h.phone("p1", 0)
	for _, tt := range []struct {
		name   string
		change func(*container.Phone)
		class  func(error) bool
	}{
		{"an id that leads elsewhere", func(p *container.Phone) { p.ID = "../x" }, errdefs.IsInvalidArgument},
		{"an unknown profile", func(p *container.Phone) { p.Profile = "windows" }, errdefs.IsInvalidArgument},
		{"an odd data size", func(p *container.Phone) { p.DataBytes = 64<<20 + 1 }, errdefs.IsInvalidArgument},
		{"an image that is not here", func(p *container.Phone) { p.ImageDigest = "sha256:" + strings.Repeat("0", 64) }, errdefs.IsNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := good
			tt.change(&p)
			if err := h.engine.Prepare(t.Context(), p); !tt.class(err) {
				t.Errorf("Prepare = %v", err)
			}
		})
	}
}

// TestPrepareKeepsARootWithoutItsImage removes the image of a phone: the phone goes on, restarts included.
func TestPrepareKeepsARootWithoutItsImage(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.prepare(p)
	if err := h.engine.Client().ImageService().Delete(t.Context(), p.Image, images.SynchronousDelete()); err != nil {
		t.Fatal(err)
	}
	h.start(p)
	h.booted("p1")
}

// TestLogsAreBounded has a guest print much more than is kept: the guest goes on and the log tells what it dropped.
func TestLogsAreBounded(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	h.booted("p1")
	if err := h.engine.Close(); err != nil { // logs need no agent
		t.Fatal(err)
	}
	h.engine = h.open()
	h.exec("p1", "setprop", "debug.testphone.flood", strconv.Itoa(256<<20))
	h.logLine("p1", container.Guest, "dropped ")
	if code, out := h.exec("p1", "getprop", "sys.boot_completed"); code != 0 || out != "1\n" {
		t.Errorf("a guest that prints much answers %d, %q", code, out)
	}
	var kept int64
	for _, f := range h.files("log/p1/guest.log*") {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		kept += info.Size()
	}
	if kept > 2*8<<20 {
		t.Errorf("%d bytes of log are kept", kept)
	}
}
