package profile_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/runtime/profile"
)

func testphone(t *testing.T) *profile.Profile {
	t.Helper()
	p, err := profile.Get("testphone")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGetNamesWhatIsKnown(t *testing.T) {
	if _, err := profile.Get("windows"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Get = %v, want an invalid argument", err)
	}
	for _, name := range profile.Names() {
		p, err := profile.Get(name)
		if err != nil || p.Name != name {
			t.Errorf("Get(%q) = %+v, %v", name, p, err)
		}
	}
}

func TestEnding(t *testing.T) {
	p := testphone(t)
	for code, want := range map[uint32]profile.Ending{
		0: profile.Crashed, 1: profile.Crashed, 129: profile.Rebooted, 130: profile.PoweredOff, 134: profile.Crashed, 137: profile.Crashed,
	} {
		if got := p.Ending(code); got != want {
			t.Errorf("Ending(%d) = %v, want %v", code, got, want)
		}
	}
}

func TestBootCompleted(t *testing.T) {
	p := testphone(t)
	for stdout, want := range map[string]bool{"1\n": true, "1": true, "": false, "\n": false, "0\n": false, "11\n": false} {
		if got := p.BootCompleted(stdout); got != want {
			t.Errorf("BootCompleted(%q) = %v", stdout, got)
		}
	}
}

func TestArgs(t *testing.T) {
	got := testphone(t).Args(profile.Boot{ID: "p1", DPI: 240, Properties: map[string]string{"ro.b": "two words", "ro.a": ""}})
	want := []string{"/init", "androidboot.serialno=p1", "androidboot.phonehost_dpi=240", "ro.a=", "ro.b=two words"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
