package appguard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// What root of a guest can do for an app that is denied the network: docs/app-policy.md says so, and this that it is true.
func TestNetworkLimits(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	p.set(t, g, appguard.Phone{Apps: apps})
	for _, test := range []struct{ what, step, want string }{
		{"a socket is given to an app that may", fmt.Sprintf("given %d %d 4 9", appOffline, appAllowed), "done"},
		{"a socket is given to one that may not", fmt.Sprintf("given %d %d 4 9", appAllowed, appOffline), "EPERM"},
		{"frames", fmt.Sprintf("packet %d", appOffline), "done"},
	} {
		if met := p.guest(t, test.step); !slices.Equal(met, []string{test.want}) {
			t.Errorf("%s: %s meets %v; want %s", test.what, test.step, met, test.want)
		}
	}
	// The app itself cannot, and can talk to others in the phone.
	if met, want := p.guest(t, way(launches[0], appOffline), "packet 0", "unix"), []string{"done", "EPERM", "done"}; !slices.Equal(met, want) {
		t.Errorf("the app itself meets %v; want %v", met, want)
	}
}

// Whatever cgroups a phone makes, what is in them is the phone's.
func TestCgroupsOfThePhone(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	p.set(t, g, appguard.Phone{Apps: apps})
	t.Cleanup(func() { os.Remove(filepath.Join(p.below, "deeper")) })
	if met, want := p.guest(t, "deeper", way(launches[0], appOffline), "connect udp 4 9", "send 6 9"), []string{"done", "done", "EPERM", "EPERM"}; !slices.Equal(met, want) {
		t.Errorf("it meets %v; want %v", met, want)
	}
}

// testInstallLimits does what root of a guest can do to have a package's directory where packages are.
func testInstallLimits(t *testing.T, g *appguard.Guard) {
	p := makePhone(t, "p1")
	p.set(t, g, appguard.Phone{Names: denyNames, Apps: map[uint32]appguard.Bits{appDenied: appguard.DenyRun}})
	dir := scratch(t)
	for _, d := range []string{"elsewhere/~~r/com.bad.app-1", "other/~~r", "other/app/~~r", "app/~~r"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		what        string
		steps, want []string
	}{
		{"a whole directory of apps is moved", []string{fmt.Sprintf("exchange %s/elsewhere %[1]s/app", dir)}, []string{"done"}},
		{"a directory with another name is shown as that of apps", []string{fmt.Sprintf("bind %s/other %[1]s/app", dir), "mkdir " + dir + "/app/~~r/com.bad.app-1"}, []string{"done", "done"}},
		{"one that is not at the root", []string{fmt.Sprintf("bind %s/other/app %[1]s/app", dir), "mkdir " + dir + "/app/~~r/com.bad.app-1"}, []string{"done", "done"}},
		{"a directory is called otherwise", []string{"mkdir " + dir + "/app/~~r/com.good-1"}, []string{"done"}},
		// Whatever is in which directory: the app cannot run.
		{"the app runs", []string{way(launches[0], appDenied)}, []string{killed}},
	} {
		if met := p.guest(t, test.steps...); !slices.Equal(met, test.want) {
			t.Errorf("%s: %v meets %v; want %v", test.what, test.steps, met, test.want)
		}
	}
}
