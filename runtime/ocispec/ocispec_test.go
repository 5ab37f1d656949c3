package ocispec_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/ocispec"
	"github.com/phonehost/phonehost/runtime/profile"
)

var update = flag.Bool("update", false, "write the golden files anew")

func guest(t *testing.T, arch string) ocispec.Guest {
	t.Helper()
	prof, err := profile.Get("testphone")
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Guest{
		ID: "p1", Arch: arch, Profile: prof,
		Boot:        profile.Boot{ID: "p1", DPI: 320, Properties: map[string]string{"b": "2", "a": "1"}},
		CgroupsPath: "/phonehost/p1/guest/ctr", NetNS: "/run/phonehost/netns/p1", WaylandDir: "/run/phonehost/phones/p1/wayland", DataDevice: "/dev/loop7",
		Limits: ocispec.Limits{CPUs: 1.5, MemoryBytes: 512 << 20, SwapAccounting: true, PIDs: prof.MaxPIDs, Files: 32768},
	}
}

func display(arch string) ocispec.Display {
	return ocispec.Display{
		Group: "p1", Arch: arch, UID: 2000007,
		Root: "/var/lib/phonehost/display/0123", WaylandDir: "/run/phonehost/phones/p1/wayland", ControlDir: "/run/phonehost/phones/p1/display",
		CgroupsPath: "/phonehost/p1/display", Args: []string{"/phone-display", "--width", "720"},
		Devices: []ocispec.Device{{Path: "/dev/dri/renderD128", Major: 226, Minor: 128}},
		Limits:  ocispec.Limits{MemoryBytes: 256 << 20, PIDs: 256, Files: 4096},
	}
}

// golden compares a spec with testdata/NAME.json; go test -update writes it.
func golden(t *testing.T, name string, spec *specs.Spec) {
	t.Helper()
	got, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s: %s", path, cmp.Diff(string(want), string(got)))
	}
}

func TestGuestGolden(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		spec, err := ocispec.BuildGuest(guest(t, arch))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "guest-testphone-"+arch, spec)
	}
}

// TestBinderGolden has a guest get a binderfs of its own, and a triple of the host's pool.
func TestBinderGolden(t *testing.T) {
	device := func(name string, minor uint32) binder.Device {
		return binder.Device{Path: "/dev/" + name, Major: 10, Minor: minor}
	}
	for name, grant := range map[string]binder.Grant{
		"binderfs": {Instance: &binder.Instance{Major: 510, Max: 3}},
		"pool":     {Triple: &binder.Triple{Name: "binder1", Binder: device("binder1", 61), HwBinder: device("hwbinder1", 62), VndBinder: device("vndbinder1", 63)}},
	} {
		g := guest(t, "arm64")
		g.Binder, g.Limits.Nice = grant, 40
		spec, err := ocispec.BuildGuest(g)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "guest-testphone-"+name+"-arm64", spec)
	}
}

func TestDisplayGolden(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		spec, err := ocispec.BuildDisplay(display(arch))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "display-"+arch, spec)
	}
}

func TestBuildRefuses(t *testing.T) {
	unlimited := guest(t, "amd64")
	unlimited.Limits.MemoryBytes = 0
	if _, err := ocispec.BuildGuest(unlimited); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a guest without a memory limit: %v", err)
	}
	if _, err := ocispec.BuildGuest(guest(t, "vax")); !errdefs.IsNotImplemented(err) {
		t.Errorf("a guest of an unknown architecture: %v", err)
	}
	if _, err := ocispec.BuildDisplay(display("vax")); !errdefs.IsNotImplemented(err) {
		t.Errorf("a display of an unknown architecture: %v", err)
	}
}

func TestCPUQuota(t *testing.T) {
	for cpus, want := range map[float64]int64{1: 100_000, 1.5: 150_000, 0.1: 10_000, 0.001: 1000, 64: 6_400_000} {
		if got := (ocispec.Limits{CPUs: cpus}).CPUQuota(); got != want {
			t.Errorf("quota of %v CPUs = %d, want %d", cpus, got, want)
		}
	}
}
