package appguard_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// appDenied may not run.
const appDenied = 10002

// launchRules deny appDenied to run, and system app 1005.
var launchRules = appguard.Phone{Apps: map[uint32]appguard.Bits{appAllowed: 0, appDenied: appguard.DenyRun, 1005: appguard.DenyRun}}

// launches are all ways that tests know to get a uid: %d.
var launches = []string{
	"setresuid %[1]d %[1]d %[1]d", "setresuid %d -1 -1", "setresuid -1 %d -1", "setresuid -1 -1 %d", "setreuid %d -1", "setreuid -1 %d", "setreuid %[1]d %[1]d",
	"setuid %d", "setfsuid %d", "thread setresuid %[1]d %[1]d %[1]d", "thread setfsuid %d", "mapped %d", "unshared %d", "forked %d", "thread forked %d",
}

// way writes the uid into one of launches.
func way(text string, uid uint32) string { return fmt.Sprintf(text, uid) }

// setuidFile makes a program that runs as a uid whoever starts it.
func setuidFile(t *testing.T, uid uint32) string {
	t.Helper()
	dir, err := os.MkdirTemp(heeded(t), "setuid")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "program")
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Chmod(dir, 0o755), os.Chown(path, int(uid), 0), os.Chmod(path, 0o755|os.ModeSetuid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// heeded is a directory where set-uid files are heeded.
func heeded(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{os.TempDir(), "/var/tmp", "/"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Flags&unix.ST_NOSUID == 0 {
			return dir
		}
	}
	t.Fatal("no file system heeds set-uid files")
	return ""
}

// testLaunches tries all ways to a uid that may run, and to one that may not.
func testLaunches(t *testing.T, g *appguard.Guard) {
	p, other := makePhone(t, "p1"), makePhone(t, "p2")
	p.set(t, g, launchRules)
	other.set(t, g, appguard.Phone{Slot: 1})
	for _, uid := range []uint32{appDenied, 1000000 + appDenied, 20002, 1020002, 1005, 101005} {
		for _, text := range launches {
			if met := p.guest(t, way(text, uid)); !slices.Equal(met, []string{killed}) {
				t.Errorf("%s meets %v", way(text, uid), met)
			}
			if few() && uid != appDenied {
				break
			}
		}
	}
	for _, uid := range []uint32{0, 1000, appAllowed, appUnknown, 20001, 50002, 90002, 99002} {
		for _, text := range launches {
			if met := p.guest(t, way(text, uid)); !slices.Equal(met, []string{"done"}) {
				t.Errorf("%s meets %v", way(text, uid), met)
			}
			if few() && uid != appAllowed {
				break
			}
		}
	}
	for cgroup, whose := range map[string]string{other.below: "another phone's", cgroupRoot(): "no phone's"} {
		if met := runIn(t, cgroup, way(launches[0], appDenied)); !slices.Equal(met, []string{"done"}) {
			t.Errorf("%s process meets %v", whose, met)
		}
	}
	testSetuidFile(t, p)
	testUnknown(t, g, p)
}

// testSetuidFile starts set-uid files of both uids, as root and as an app.
func testSetuidFile(t *testing.T, p phone) {
	for uid, want := range map[uint32]string{appAllowed: "done", appDenied: "signal:_killed"} {
		file := setuidFile(t, uid)
		for _, become := range []string{"setuid 0", way(launches[0], appAllowed)} {
			if met := p.guest(t, become, fmt.Sprintf("exec %s is %d", file, uid)); !slices.Equal(met, []string{"done", want}) {
				t.Errorf("%s, then a set-uid file of %d meets %v; want %s", become, uid, met, want)
			}
		}
	}
}

// testUnknown has a phone deny what it does not know, then isolated processes too.
func testUnknown(t *testing.T, g *appguard.Guard, p phone) {
	rules := launchRules
	rules.UnknownDeny = true
	p.set(t, g, rules)
	check := func(want string, uids ...uint32) {
		t.Helper()
		for _, uid := range uids {
			if met := p.guest(t, way(launches[0], uid)); !slices.Equal(met, []string{want}) {
				t.Errorf("uid %d meets %v; want %s", uid, met, want)
			}
		}
	}
	check(killed, appUnknown, 19999, 20999, 1000000+appUnknown)
	check("done", 0, 9999, appAllowed, 20001, 30000, 90000, 99999)
	rules.IsolatedDeny = true
	p.set(t, g, rules)
	check(killed, 90000, 99999, 199999)
	check("done", 89999, appAllowed, 0)
}

// testRefusal has launches refused and not killed: they fail, and change nothing.
func testRefusal(t *testing.T, g *appguard.Guard, want string) {
	p := makePhone(t, "p1")
	p.set(t, g, launchRules)
	if err := g.NoKill(true); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.NoKill(false); err != nil {
			t.Error(err)
		}
	}()
	drain(t, g, 0)
	tries := uint64(0)
	for _, text := range launches {
		step := way(text, appDenied)
		wanted := []string{want, "done"}
		if strings.HasPrefix(text, "setfsuid") || strings.HasPrefix(text, "thread setfsuid") || want == "EPERM" {
			// What has failed can be followed by what needs the uid that the process began with.
			if met := p.guest(t, step, "setresuid 0 0 0"); !slices.Equal(met, wanted) {
				t.Errorf("%s meets %v; want %v", step, met, wanted)
			}
			tries++
		}
	}
	c, err := g.Counters(0)
	if err != nil {
		t.Fatal(err)
	}
	var listed uint64
	for _, d := range drain(t, g, 0) {
		listed += d.Count
		if d.UID != appDenied || d.Kind != appguard.KindLaunch {
			t.Errorf("a denial is %+v", d)
		}
	}
	if listed < tries || c.Denied[appguard.KindLaunch] < listed {
		t.Errorf("%d launches were refused, %d are listed, %d counted in all", tries, listed, c.Denied[appguard.KindLaunch])
	}
}
