package appguard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

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
	if err := os.WriteFile(filepath.Join(dir, "base.apk"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what        string
		steps, want []string
	}{
		{"a whole directory of apps is moved", []string{fmt.Sprintf("exchange %s/elsewhere %[1]s/app", dir)}, []string{"done"}},
		{"a directory with another name is shown as that of apps", []string{fmt.Sprintf("bind %s/other %[1]s/app", dir), "mkdir " + dir + "/app/~~r/com.bad.app-1"}, []string{"done", "done"}},
		{"one that is not at the root", []string{fmt.Sprintf("bind %s/other/app %[1]s/app", dir), "mkdir " + dir + "/app/~~r/com.bad.app-1"}, []string{"done", "done"}},
		{"a file system of its own is shown there", []string{"cover " + dir + "/app", "mkdir " + dir + "/app/~~r", "mkdir " + dir + "/app/~~r/com.bad.app-1"}, []string{"done", "done", "done"}},
		{"a directory is called otherwise", []string{"mkdir " + dir + "/app/~~r/com.good-1"}, []string{"done"}},
		{"one of another name is shown as a package's", []string{fmt.Sprintf("bind %s/other %[1]s/app/~~r/com.good-1", dir)}, []string{"done"}},
		{"a link has the package's name", []string{fmt.Sprintf("symlink %s/other %[1]s/app/~~r/com.bad.app-2", dir)}, []string{"done"}},
		{"a link is moved there", []string{fmt.Sprintf("symlink other %s/link", dir), fmt.Sprintf("rename %s/link %[1]s/app/~~r/com.bad.app-3", dir)}, []string{"done", "done"}},
		{"a link has a random name", []string{fmt.Sprintf("symlink %s/other %[1]s/app/~~s", dir), "mkdir " + dir + "/app/~~s/com.bad.app-1"}, []string{"done", "done"}},
		{"a file is linked into another package's directory", []string{fmt.Sprintf("link %s/base.apk %[1]s/app/~~r/com.good-1/base.apk", dir)}, []string{"done"}},
		{"a file is linked where packages are", []string{fmt.Sprintf("link %s/base.apk %[1]s/app/com.bad.app-1.apk", dir)}, []string{"done"}},
		{"a file without a name gets one", []string{fmt.Sprintf("tmpfile %s %[1]s/app/~~r/com.good-1/split.apk", dir)}, []string{"done"}},
		{"a file without a name gets the package's", []string{fmt.Sprintf("tmpfile %s %[1]s/app/~~r/com.bad.app-4", dir)}, []string{"done"}},
		{"the directory of apps is a link", []string{fmt.Sprintf("rename %s/app %[1]s/former", dir), fmt.Sprintf("symlink other %s/app", dir), "mkdir " + dir + "/app/~~r/com.bad.app-5"}, []string{"done", "done", "done"}},
		// Whatever is in which directory: the app cannot run.
		{"the app runs", []string{way(launches[0], appDenied)}, []string{killed}},
	} {
		if met := p.guest(t, test.steps...); !slices.Equal(met, test.want) {
			t.Errorf("%s: %v meets %v; want %v", test.what, test.steps, met, test.want)
		}
	}
}

// deeperStep makes a cgroup where the process is alone, as it sees cgroups, and goes there. Nothing else is in sight.
func deeperStep([]string) error {
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	if err := apart(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cgroup")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount("cgroup2", dir, "cgroup2", 0, ""); err != nil {
		return err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	deeper := filepath.Join(dir, "deeper")
	if err := os.Mkdir(deeper, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(deeper, "cgroup.procs"), []byte("0"), 0)
}
