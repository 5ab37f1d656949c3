package profile_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/runtime/profile"
)

func get(t *testing.T, name string) *profile.Profile {
	t.Helper()
	p, err := profile.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGetNamesWhatIsKnown(t *testing.T) {
	_, err := profile.Get("windows")
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "redroid, redroid-sysboot, testphone, waydroid") {
		t.Errorf("Get = %v, want an invalid argument that names the profiles", err)
	}
	for _, name := range profile.Names() {
		if p := get(t, name); p.Name != name {
			t.Errorf("Get(%q) = %q", name, p.Name)
		}
	}
}

func TestTestphoneArgs(t *testing.T) {
	got := get(t, "testphone").Args(profile.Boot{ID: "p1", DPI: 240, Properties: map[string]string{"ro.b": "two words", "ro.a": ""}})
	want := []string{"/init", "androidboot.serialno=p1", "androidboot.phonehost_dpi=240", "ro.a=", "ro.b=two words"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestOwnersPropertiesComeOnce has the owner set what the profile sets too: init keeps the first of two.
func TestOwnersPropertiesComeOnce(t *testing.T) {
	boot := profile.Boot{ID: "p1", Width: 720, Height: 1280, DPI: 320, FPS: 30, Properties: map[string]string{
		"androidboot.redroid_dpi": "160", "ro.logd.kernel": "true", "ro.z": "1", "ro.debuggable": "1",
	}}
	got := get(t, "redroid").Args(boot)
	want := []string{
		"/init", "qemu=1", "androidboot.hardware=redroid", "androidboot.serialno=p1", "androidboot.redroid_width=720", "androidboot.redroid_height=1280",
		"androidboot.redroid_dpi=160", "androidboot.redroid_fps=30", "androidboot.use_memfd=1", "androidboot.redroid_gpu_mode=guest",
		"ro.logd.kernel=true", "ro.logd.auditd=false", "ro.debuggable=1", "ro.z=1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if boot.Properties["ro.z"] != "1" || len(boot.Properties) != 4 {
		t.Errorf("the caller's properties were changed: %v", boot.Properties)
	}
	file := string(get(t, "waydroid").Files[0].Content(boot))
	for _, line := range []string{"ro.debuggable=1\n", "ro.logd.kernel=true\n", "ro.z=1\n", "ro.sf.lcd_density=320\n"} {
		if strings.Count(file, line) != 1 {
			t.Errorf("waydroid.prop has %q %d times", line, strings.Count(file, line))
		}
	}
	if strings.Contains(file, "ro.debuggable=0") {
		t.Error("waydroid.prop has what the owner replaced")
	}
}

func TestCheckPropertiesSaysWhatIsRight(t *testing.T) {
	for _, tt := range []struct{ profile, name, value, want string }{
		{"redroid", "persist.x", "1", "ro.* and androidboot.*"},
		{"redroid", "ro.x", "a b", "without spaces"},
		{"redroid", "ro.x", `"`, "quotation marks"},
		{"redroid", "ro..x", "1", "single dots"},
		{"waydroid", "persist.x", strings.Repeat("x", 92), "at most 91 bytes"},
		{"waydroid", "persist.x", " x", "neither begins nor ends"},
		{"waydroid", "ctl.start", "x", "a command to init"},
		{"waydroid", "ro.x", "\a", "control characters"},
		{"testphone", "a=b", "1", "without ="},
	} {
		err := get(t, tt.profile).CheckProperties(map[string]string{"ro.fine": "1", tt.name: tt.value})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s, %q=%q: %v, want %q", tt.profile, tt.name, tt.value, err, tt.want)
		}
	}
	fine := map[string]string{"ro.x": strings.Repeat("x", 200), "androidboot.y": "a,b;c=d"}
	for _, name := range profile.Names() {
		if err := get(t, name).CheckProperties(fine); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
