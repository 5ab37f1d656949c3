package container_test

import (
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
	return testenv.Binary(t, pkg)
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

// TestFilterRefuses tries each call in a container that has every capability, with the guest's filter and without.
func TestFilterRefuses(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.prepare(p)
	guest, _, err := h.engine.Specs(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	withBPF, err := seccomp.Guest(runtime.GOARCH, seccomp.GuestOptions{BPF: true})
	if err != nil {
		t.Fatal(err)
	}
	own := guest.Linux.Seccomp
	allowed := map[string]bool{"ioctl-other": true, "getpid": true}
	for _, tt := range []struct {
		name    string
		arch    string
		filter  *specs.LinuxSeccomp
		refused func(call string) bool
	}{
		{"a guest", runtime.GOARCH, own, func(c string) bool { return !allowed[c] }},
		{"a 32-bit program in a guest", compat(), own, func(c string) bool { return !allowed[c] }},
		{"a guest with BPF", runtime.GOARCH, withBPF, func(c string) bool { return !allowed[c] && c != "bpf-map-create" }},
		{"no filter", runtime.GOARCH, nil, func(c string) bool { return false }},
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
			seen := 0
			for line := range strings.Lines(out) {
				call, met, _ := strings.Cut(strings.TrimSpace(line), " ")
				want := "EPERM"
				if call == "clone3" {
					want = "ENOSYS"
				}
				// The kernel may be built without a call; that is no refusal of ours.
				if refused := met == want; refused != tt.refused(call) && !(tt.filter == nil && met == "ENOSYS") {
					t.Errorf("%s met %s", call, met)
				}
				seen++
			}
			if seen < 25 {
				t.Errorf("the probe tried %d calls: %s", seen, out)
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

// TestDisplayFilterRefuses runs the probe under the display's filter: nothing that it tries is allowed.
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
		if strings.HasPrefix(call, "ioctl") || call == "getpid" {
			continue
		}
		if met != "ENOSYS" {
			t.Errorf("%s met %s, want ENOSYS", call, met)
		}
	}
}
