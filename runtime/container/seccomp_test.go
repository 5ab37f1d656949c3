package container_test

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/phonehost/phonehost/runtime/seccomp"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// probe builds the probe for an architecture, static.
func probe(t *testing.T, arch string) string {
	t.Helper()
	const pkg = "runtime/container/testdata/probe"
	if arch != runtime.GOARCH {
		return testenv.BinaryFor(t, pkg, arch)
	}
	return testenv.PureBinary(t, pkg)
}

// run runs a container of this spec to its end and returns its exit code and output.
func (h *host) run(id string, spec *specs.Spec) (uint32, string) {
	h.t.Helper()
	out := filepath.Join(h.t.TempDir(), "out")
	service := h.engine.Client().TaskService()
	ctx := h.t.Context()
	h.createRecord(id, spec)
	request := &tasks.CreateTaskRequest{ContainerID: id, Stdout: "file://" + out, Stderr: "file://" + out}
	if _, err := service.Create(ctx, request); err != nil {
		h.t.Fatal(err)
	}
	if _, err := service.Start(ctx, &tasks.StartRequest{ContainerID: id}); err != nil {
		h.t.Fatal(err)
	}
	exit, err := service.Wait(ctx, &tasks.WaitRequest{ContainerID: id})
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := service.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id}); err != nil {
		h.t.Fatal(err)
	}
	if err := h.engine.Client().ContainerService().Delete(ctx, id); err != nil {
		h.t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		h.t.Fatal(err)
	}
	return exit.GetExitStatus(), string(text)
}

// probeRoot is a root directory with the probe and nothing else.
func probeRoot(t *testing.T, probe string) string {
	t.Helper()
	root, err := os.MkdirTemp("", "phonehost-root-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"proc", "sys", "dev", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "probe"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// every is the list of all capabilities: what is refused then is refused by the filter.
func every(t *testing.T) *specs.LinuxCapabilities {
	t.Helper()
	status, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer status.Close()
	sets, err := cap.ParseProcPIDStatus(status)
	if err != nil {
		t.Fatal(err)
	}
	caps, _ := cap.FromBitmap(sets[cap.Bounding])
	caps = slices.DeleteFunc(caps, func(c string) bool { return c == "CAP_SYS_RESOURCE" }) // the test itself may not have it
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

// What the probe's calls meet. Those that are in no list meet nothing of the filter.
var (
	// refusedToAll fail for every guest, with EPERM where nothing else is said.
	refusedToAll = map[string]string{
		"bpf-prog-get-next-id": "EPERM", "bpf-prog-get-next-id-high": "EPERM", "bpf-link-detach": "EPERM", "bpf-link-update": "EPERM", "bpf-prog-detach": "EPERM",
		"bpf-raw-tracepoint-open": "EPERM", "bpf-link-create": "EPERM", "bpf-map-create": "EPERM", "kexec-load": "EPERM", "init-module": "EPERM",
		"finit-module": "EPERM", "delete-module": "EPERM", "open-by-handle-at": "EPERM", "ioctl-shutdown": "EPERM", "ioctl-shutdown-high": "EPERM",
		"keyctl": "EPERM", "add-key": "EPERM", "request-key": "EPERM", "unshare-user": "EPERM", "clone-user": "EPERM", "clone3": "ENOSYS",
		"io-uring-setup": "EPERM", "perf-event-open": "EPERM", "swapon": "EPERM", "acct": "EPERM", "syslog": "EPERM", "clock-settime": "EPERM",
	}
	// refusedToAndroid are those that a guest of Android's own init meets besides, or instead; "done" is pretended.
	refusedToAndroid = map[string]string{
		"keyctl": "done", "add-key": "done", "request-key": "done", "swapon": "done", "clock-settime": "done", "adjtimex": "done",
		"mount-move": "EPERM", "mount-remount": "EPERM", "mount-remount-ro": "EPERM", "mount-remount-bind-rw": "EPERM", "fsopen": "ENOSYS", "move-mount": "ENOSYS",
		"open-tree": "ENOSYS", "mount-setattr": "ENOSYS", "pivot-root": "EPERM", "unshare-net": "EPERM", "clone-net": "EPERM", "ioctl-freeze": "EPERM",
		"ioctl-thaw": "EPERM", "sched-fifo": "EPERM", "sched-rr": "EPERM", "sched-setattr": "EPERM", "ioprio-realtime": "EPERM", "prlimit-core": "done",
		"mknod-kmsg": "done",
	}
)

// filterOf is what calls meet under a filter.
func filterOf(o seccomp.GuestOptions) map[string]string {
	meets := maps.Clone(refusedToAll)
	if o.Android {
		maps.Copy(meets, refusedToAndroid)
	}
	if o.BPF {
		delete(meets, "bpf-map-create")
	}
	return meets
}

// TestFilterRefuses tries each call in a container that has every capability, with the guest's filter and without.
func TestFilterRefuses(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.prepare(p)
	guest, _, err := h.engine.Specs(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	filter := func(o seccomp.GuestOptions) *specs.LinuxSeccomp {
		f, err := seccomp.Guest(runtime.GOARCH, o)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	plain, bpf, android := seccomp.GuestOptions{}, seccomp.GuestOptions{BPF: true}, seccomp.GuestOptions{BPF: true, Android: true}
	for _, tt := range []struct {
		name   string
		arch   string
		filter *specs.LinuxSeccomp
		meets  map[string]string
	}{
		{"a guest", runtime.GOARCH, guest.Linux.Seccomp, filterOf(plain)},
		{"a 32-bit program in a guest", compat(), guest.Linux.Seccomp, filterOf(plain)},
		{"a guest with BPF", runtime.GOARCH, filter(bpf), filterOf(bpf)},
		{"a guest of Android's init", runtime.GOARCH, filter(android), filterOf(android)},
		{"a 32-bit program in it", compat(), filter(android), filterOf(android)},
		{"no filter", runtime.GOARCH, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := *guest
			linux, process := *guest.Linux, *guest.Process
			spec.Linux, spec.Process = &linux, &process
			spec.Root = &specs.Root{Path: probeRoot(t, probe(t, tt.arch)), Readonly: true}
			spec.Mounts = spec.Mounts[:3] // proc, sys, dev
			spec.Linux.Seccomp = tt.filter
			spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil
			spec.Process.Args, spec.Process.Capabilities = []string{"/probe"}, every(t)
			code, out := h.run("p1", &spec)
			if code != 0 {
				t.Fatalf("the probe exited with %d: %s", code, out)
			}
			seen := map[string]bool{}
			for line := range strings.Lines(out) {
				call, met, _ := strings.Cut(strings.TrimSpace(line), " ")
				seen[call] = true
				want, filtered := tt.meets[call]
				// The kernel may be built without a call; that is no refusal of ours.
				if filtered && met != want || !filtered && (met == "EPERM" || met == "ENOSYS" && tt.filter != nil) {
					t.Errorf("%s met %s, want %s", call, met, want)
				}
			}
			for call := range refusedToAll {
				if !seen[call] {
					t.Errorf("the probe did not try %s", call)
				}
			}
			for call := range refusedToAndroid {
				if !seen[call] {
					t.Errorf("the probe did not try %s", call)
				}
			}
		})
	}
}

// compat is the architecture of the 32-bit programs that this host's kernel runs too.
func compat() string {
	if runtime.GOARCH == "arm64" {
		return "arm"
	}
	return "386"
}

// TestDisplayEncodesUnderItsFilter has the real program encode a frame with each encoder, confined as every display is.
func TestDisplayEncodesUnderItsFilter(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.prepare(p)
	_, display, err := h.engine.Specs(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	display.Process.Args = []string{display.Process.Args[0], "encoders"}
	code, out := h.run("p1.display", display)
	if code != 0 || !strings.Contains(out, "x264") {
		t.Errorf("phone-display encoders exited with %d: %s", code, out)
	}
	t.Log(out)
}

// TestDisplayFilterRefuses runs the probe under the display's filter: of what it tries, only calls are allowed that every program makes.
func TestDisplayFilterRefuses(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.prepare(p)
	_, display, err := h.engine.Specs(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	display.Root.Path = probeRoot(t, probe(t, runtime.GOARCH))
	display.Mounts = display.Mounts[:2]
	display.Process.Args = []string{"/probe"}
	code, out := h.run("p1.display", display)
	if code != 0 {
		t.Fatalf("the probe exited with %d: %s", code, out)
	}
	for line := range strings.Lines(out) {
		call, met, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(call, "ioctl") || strings.HasPrefix(call, "prlimit") || call == "getpid" {
			continue
		}
		if met != "ENOSYS" {
			t.Errorf("%s met %s, want ENOSYS", call, met)
		}
	}
}
