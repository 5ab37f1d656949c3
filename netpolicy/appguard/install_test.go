package appguard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// long returns a package name of n bytes.
func long(n int) string { return "com." + strings.Repeat("long", n)[:n-4] }

// denyNames is a list that denies, with all kinds of names.
var denyNames = []appguard.Name{
	{Name: "com.bad.app", Deny: true}, {Name: "com.evil.", Prefix: true, Deny: true}, {Name: "com.evil.good"}, {Name: "com.evil.nice.", Prefix: true},
	{Name: long(255), Deny: true}, {Name: long(253), Deny: true}, {Name: "odd\x01\xff name\n", Deny: true},
}

// allowNames is one that allows.
var allowNames = []appguard.Name{{Name: "com.ok"}, {Name: "com.fine.", Prefix: true}, {Name: "com.fine.not", Deny: true}}

// installCase is where a directory is moved to, in the way that Go quotes odd characters, and whether that is refused.
type installCase struct {
	to      string
	refused bool
	// name is how the denial calls it, if not what is before the first "-" of the last part.
	name string
}

var denyCases = []installCase{
	{to: "app/~~r/com.bad.app-1", refused: true}, {to: "app/~~r/com.bad.app-1-2--", refused: true}, {to: "app/~~r/com.bad.app", refused: true},
	{to: "app/~~/com.bad.app-1", refused: true}, {to: "app/~~r/com.bad.app2-1"}, {to: "app/~~r/com.bad.ap-1"}, {to: "app/~~r/Com.bad.app-1"},
	{to: `app/~~r/com.b\u0430d.app-1`}, {to: `app/~~r/com.bad.app\x20-1`}, {to: "app/~~r/com.bad-1"},
	{to: "app/~~r/com.evil.x-1", refused: true}, {to: "app/~~r/com.evil.-1", refused: true}, {to: "app/~~r/com.evil-1"}, {to: "app/~~r/com.evilx-1"},
	{to: "app/~~r/com.evil.good-1"}, {to: "app/~~r/com.evil.good2-1", refused: true}, {to: "app/~~r/com.evil.nice.x-1"}, {to: "app/~~r/com.evil.nicex-1", refused: true},
	{to: "app/~~r/" + long(255), refused: true}, {to: "app/~~r/" + long(253) + "-1", refused: true}, {to: "app/~~r/" + long(254)}, {to: "app/~~r/" + long(252) + "-1"},
	{to: `app/~~r/odd\x01\xff\x20name\n-1`, refused: true, name: "odd\x01\xff name\n"}, {to: "app/~~r/-1"}, {to: "app/~~r/--"},
	{to: "app/com.bad.app-1", refused: true}, {to: "app/com.good.app-1"}, {to: "app/com.bad.app"}, {to: "app/vmdl1.tmp"}, {to: "app/~~full", refused: true, name: "~~full"},
	{to: "app/~x/com.bad.app-1"}, {to: "app/x/com.bad.app-1"}, {to: "apps/~~r/com.bad.app-1"}, {to: "ap/~~r/com.bad.app-1"}, {to: "app/x/~~r/com.bad.app-1"},
	// Apps' own.
	{to: "data/com.x/app/com.bad.app-1"}, {to: "media/0/app/~~r/com.bad.app-1"}, {to: "x/app/~~full"},
}

var allowCases = []installCase{
	{to: "app/~~r/com.ok-1"}, {to: "app/~~r/com.okay-1", refused: true}, {to: "app/~~r/com.o-1", refused: true}, {to: "app/~~r/com.fine.x-1"},
	{to: "app/~~r/com.fine.not-1", refused: true}, {to: "app/~~r/com.fine-1", refused: true}, {to: "app/~~r/-1", refused: true}, {to: "app/vmdl2.tmp"},
	{to: "app/com.ok-1"}, {to: "app/com.other-1", refused: true}, {to: "apps/~~r/com.other-1"}, {to: "data/com.x/app/com.other-1"}, {to: "data/com.x/app/~~r/a-b"},
}

// package is what the denial of a case is called.
func (c installCase) pkg() string {
	if c.name != "" {
		return c.name
	}
	before, _, _ := strings.Cut(filepath.Base(c.to), "-")
	return before
}

// scratch makes a file system for a test, as a phone's data is one, and returns where it is mounted.
func scratch(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// stage makes a directory to be moved, and that which it is to be moved to.
func stage(t *testing.T, dir string, n int, to string) (from, target string) {
	t.Helper()
	from, target = filepath.Join(dir, fmt.Sprint("stage", n)), filepath.Join(dir, to)
	for _, d := range []string{from, filepath.Dir(target)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return from, target
}

// testInstalls moves directories to where packages are, under both kinds of list.
func testInstalls(t *testing.T, g *appguard.Guard) {
	p := makePhone(t, "p1")
	for _, list := range []struct {
		name  string
		rules appguard.Phone
		cases []installCase
	}{{"deny", appguard.Phone{Names: denyNames}, denyCases}, {"allow", appguard.Phone{Names: allowNames, UnlistedDeny: true}, allowCases}} {
		p.set(t, g, list.rules)
		for _, verb := range []string{"rename", "noreplace"} {
			dir := scratch(t)
			var steps, want, denials []string
			counted := map[string]int{}
			for n, c := range list.cases {
				from, to := stage(t, dir, n, c.to)
				steps = append(steps, strings.Join([]string{verb, from, to}, " "))
				if c.refused {
					want = append(want, "EPERM")
					counted[c.pkg()]++
				} else {
					want = append(want, "done")
				}
			}
			met := p.guest(t, steps...)
			for n, c := range list.cases {
				if n >= len(met) || met[n] != want[n] {
					t.Errorf("%s list, %s to %s meets %s; want %s", list.name, verb, c.to, met[n:], want[n])
					break
				}
			}
			for name, n := range counted {
				denials = append(denials, fmt.Sprintf("install 0 %q %d", name, n))
			}
			slices.Sort(denials)
			got := counts(drain(t, g, 0))
			slices.Sort(got)
			if diff := cmp.Diff(denials, got); diff != "" {
				t.Errorf("%s list, %s: denials (-want +got):\n%s", list.name, verb, diff)
			}
		}
	}
	p.set(t, g, appguard.Phone{Names: denyNames})
	testOtherInstalls(t, p)
	testInstallsElsewhere(t, g, p)
}

// testOtherInstalls goes other ways than the package manager does.
func testOtherInstalls(t *testing.T, p phone) {
	dir := scratch(t)
	bad, good := filepath.Join(dir, "app/~~r/com.bad.app-1"), filepath.Join(dir, "app/~~r/com.good-1")
	from := filepath.Join(dir, "from")
	for _, d := range []string{bad, good, from} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	all := []tries{
		{[]string{"exchange " + from + " " + bad}, []string{"EPERM"}},
		{[]string{"exchange " + bad + " " + from}, []string{"EPERM"}},
		{[]string{"exchange " + from + " " + good}, []string{"done"}},
		{[]string{"mkdir " + bad + "1"}, []string{"EPERM"}},
		{[]string{"mkdir " + good + "1"}, []string{"done"}},
		{[]string{"mkdir " + filepath.Join(dir, "app/~~new")}, []string{"done"}},
		{[]string{"mkdir " + filepath.Join(dir, "app/vmdl3.tmp")}, []string{"done"}},
		{[]string{"mkdir " + filepath.Join(dir, "app/com.bad.app-1")}, []string{"EPERM"}},
		{[]string{"rename " + file + " " + bad + "2"}, []string{"done"}}, // no directory
		// Where the process sees it does not matter: a directory is known by its own names.
		{[]string{"chroot " + filepath.Join(dir, "app"), "mkdir /~~r/com.bad.app-3"}, []string{"done", "EPERM"}},
		{[]string{"bind " + filepath.Join(dir, "app") + " " + from, "mkdir " + filepath.Join(from, "~~r/com.bad.app-4")}, []string{"done", "EPERM"}},
		{[]string{"bind " + filepath.Join(dir, "app/~~r") + " " + from, "mkdir " + filepath.Join(from, "com.bad.app-5"), "mkdir " + filepath.Join(from, "com.good-5")}, []string{"done", "EPERM", "done"}},
		// Nor does what the process is.
		{[]string{way(launches[0], 1000), "mkdir " + bad + "6"}, []string{"done", "EACCES"}},
		{[]string{"thread mkdir " + bad + "7"}, []string{"EPERM"}},
	}
	all = append(all, stillOtherInstalls(t, dir)...)
	for _, each := range all {
		if met := p.guest(t, each.steps...); !slices.Equal(met, each.want) {
			t.Errorf("%q meets %v; want %v", each.steps, met, each.want)
		}
	}
}

// testInstallsElsewhere has others than the phone do it.
func testInstallsElsewhere(t *testing.T, g *appguard.Guard, p phone) {
	other := makePhone(t, "p2")
	other.set(t, g, appguard.Phone{Slot: 1, Names: allowNames})
	dir := scratch(t)
	if err := os.MkdirAll(filepath.Join(dir, "app/~~r"), 0o755); err != nil {
		t.Fatal(err)
	}
	for n, cgroup := range []string{other.below, cgroupRoot(), filepath.Dir(p.dir)} {
		if met := runIn(t, cgroup, fmt.Sprintf("mkdir %s/app/~~r/com.bad.app-%d", dir, n)); !slices.Equal(met, []string{"done"}) {
			t.Errorf("in %s it meets %v", cgroup, met)
		}
	}
}
