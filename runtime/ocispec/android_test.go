package ocispec_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/ocispec"
	"github.com/phonehost/phonehost/runtime/profile"
)

// android is a phone of one of Android's own profiles.
func android(t *testing.T, name, arch string) ocispec.Guest {
	t.Helper()
	g := guest(t, arch)
	var err error
	if g.Profile, err = profile.Get(name); err != nil {
		t.Fatal(err)
	}
	g.Boot = profile.Boot{
		ID: "p1", Width: 1080, Height: 1920, DPI: 480, FPS: 60, DNS: []string{"10.64.0.1", "fd00::1"},
		Properties: map[string]string{"ro.product.model": "Example"},
	}
	g.FilesDir = "/run/phonehost/phones/p1/files"
	g.Limits = ocispec.Limits{CPUs: 2, MemoryBytes: 4 << 30, SwapAccounting: true, PIDs: g.Profile.MaxPIDs, Files: 32768, Nice: 40}
	return g
}

// grants are what a guest can have of binder.
func grants() map[string]binder.Grant {
	device := func(name string, minor uint32) binder.Device {
		return binder.Device{Path: "/dev/" + name, Major: 10, Minor: minor}
	}
	return map[string]binder.Grant{
		"binderfs": {Instance: &binder.Instance{Major: 510, Max: 3}},
		"pool":     {Triple: &binder.Triple{Name: "binder1", Binder: device("binder1", 61), HwBinder: device("hwbinder1", 62), VndBinder: device("vndbinder1", 63)}},
	}
}

// androidSpecs are the phones whose specs stand in testdata, each line with its reason.
func androidSpecs(t *testing.T) map[string]ocispec.Guest {
	t.Helper()
	all := map[string]ocispec.Guest{}
	for _, name := range []string{"redroid", "waydroid"} {
		for _, arch := range []string{"amd64", "arm64"} {
			for kind, grant := range grants() {
				g := android(t, name, arch)
				g.Binder = grant
				all["guest-"+name+"-"+kind+"-"+arch] = g
			}
		}
		g := android(t, name, "arm64")
		g.Binder = grants()["binderfs"]
		g.Boot.RenderNode, g.RenderNode = "/dev/dri/renderD128", &ocispec.Device{Path: "/dev/dri/renderD129", Major: 226, Minor: 129}
		all["guest-"+name+"-gpu-arm64"] = g
	}
	g := android(t, "redroid-sysboot", "arm64")
	g.Binder = grants()["binderfs"]
	all["guest-redroid-sysboot-arm64"] = g
	return all
}

// TestAndroidGolden compares the specs of redroid and Waydroid with testdata/NAME.jsonc, where every line says why it is there; go
// test -update writes the files, out of testdata/reasons.txt.
func TestAndroidGolden(t *testing.T) {
	why := loadReasons(t)
	for name, g := range androidSpecs(t) {
		spec, err := ocispec.BuildGuest(g)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		path := filepath.Join("testdata", name+".jsonc")
		annotated := why.annotate(t, spec)
		if *update {
			if err := os.WriteFile(path, []byte(annotated), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(file), annotated); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
		plain, err := json.MarshalIndent(spec, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if got := strip(string(file)); got != string(plain)+"\n" {
			t.Errorf("%s without its reasons is not the spec: %s", path, cmp.Diff(string(plain)+"\n", got))
		}
	}
	for key := range why.why {
		if !why.used[key] {
			t.Errorf("testdata/reasons.txt gives a reason for what is in no spec: %s", key)
		}
	}
}

// TestFilesGolden compares the files that the engine writes for a guest with testdata/PROFILE-NAME.
func TestFilesGolden(t *testing.T) {
	for name, g := range androidSpecs(t) {
		for _, f := range g.Profile.Files {
			got := f.Content(g.Boot)
			path := filepath.Join("testdata", g.Profile.Name+"-"+filepath.Base(f.Path))
			if g.RenderNode != nil {
				path = filepath.Join("testdata", g.Profile.Name+"-gpu-"+filepath.Base(f.Path))
			}
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
				t.Errorf("%s, %s: %s", name, path, cmp.Diff(string(want), string(got)))
			}
		}
	}
}
