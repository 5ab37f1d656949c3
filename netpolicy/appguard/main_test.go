package appguard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/appguard"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// dir is where the tests' pins are, in netlab's own BPF file system.
const dir = "/sys/fs/bpf/phonehost/apps"

// The first argument of what tests start of this program: the canary, what a guest does (guestMain), and another agent (agentMain).
const (
	argCanary = "appguard-canary"
	argGuest  = "appguard-guest"
	argAgent  = "appguard-agent"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case argCanary:
			os.Exit(appguard.RunCanary())
		case argGuest:
			os.Exit(guestMain(os.Args[2:]))
		case argAgent:
			os.Exit(agentMain(os.Args[2:]))
		}
	}
	os.Exit(netlab.Run(m))
}

// few tells to repeat things less often: in a machine that is emulated, and for those in a hurry.
func few() bool {
	_, guest := vm.Guest()
	return guest || testing.Short()
}

// cgroupMount is where cgroup v2 is.
func cgroupMount() string {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "/sys/fs/cgroup"
	}
	return "/sys/fs/cgroup/unified"
}

// cgroupRoot is the root of this test process's phones.
func cgroupRoot() string { return filepath.Join(cgroupMount(), fmt.Sprintf("appguard%d", os.Getpid())) }

func config() appguard.Config {
	return appguard.Config{Dir: dir, CgroupRoot: cgroupRoot(), Level: 3, MaxPhones: 128, Canary: []string{"/proc/self/exe", argCanary}}
}

// open opens a guard where there are no pins; the test's end removes all that there is.
func open(t testing.TB, change ...func(*appguard.Config)) *appguard.Guard {
	t.Helper()
	testenv.Root(t)
	t.Cleanup(func() { removeAll(t) })
	return reopen(t, change...)
}

// reopen opens a guard once more; the test's end closes it.
func reopen(t testing.TB, change ...func(*appguard.Config)) *appguard.Guard {
	t.Helper()
	c := config()
	for _, f := range change {
		f(&c)
	}
	g, err := appguard.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() }) // closed already by some tests, which want its error
	return g
}

// removeAll takes the pins and the cgroups away, and fails the test if anything stays.
func removeAll(t testing.TB) {
	t.Helper()
	if err := appguard.Remove(dir, cgroupRoot()); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err == nil && len(entries) > 0 {
		t.Errorf("%v stay", entries)
	}
	if err := os.Remove(cgroupRoot()); err != nil {
		t.Error(err)
	}
}

// phone is a phone's cgroups: those of its guest, and the one in it where its processes are.
type phone struct {
	dir, below string
	id         uint64
}

// makePhone makes the cgroups of a phone, which the test's end removes.
func makePhone(t testing.TB, name string) phone {
	t.Helper()
	return makeCgroups(t, filepath.Join(cgroupRoot(), name))
}

// makeCgroups makes cgroups such as a phone has in a directory, which the test's end removes.
func makeCgroups(t testing.TB, of string) phone {
	t.Helper()
	p := phone{dir: filepath.Join(of, "guest")}
	p.below = filepath.Join(p.dir, "ctr")
	if err := os.MkdirAll(p.below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, dir := range []string{p.below, p.dir, filepath.Dir(p.dir)} {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(p.dir, &st); err != nil {
		t.Fatal(err)
	}
	p.id = st.Ino
	return p
}

// set sets what the apps of a phone may do.
func (p phone) set(t testing.TB, g *appguard.Guard, rules appguard.Phone) {
	t.Helper()
	if err := g.SetPhone(p.id, rules); err != nil {
		t.Fatal(err)
	}
}

// drain takes the denials of a slot, in an order of their own.
func drain(t testing.TB, g *appguard.Guard, slot uint32) []appguard.Denial {
	t.Helper()
	var all []appguard.Denial
	if err := g.DrainDenials(slot, func(list []appguard.Denial) error {
		all = append(all, list...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b appguard.Denial) int {
		return strings.Compare(fmt.Sprint(a.Kind, a.UID, a.Package), fmt.Sprint(b.Kind, b.UID, b.Package))
	})
	return all
}

// counts are denials without their times, as texts.
func counts(list []appguard.Denial) []string {
	var all []string
	for _, d := range list {
		all = append(all, fmt.Sprintf("%s %d %q %d", d.Kind, d.UID, d.Package, d.Count))
	}
	return all
}
