package appguard_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/appguard"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// costCalls is how many calls one run makes, and costRuns how many runs a process makes, of which the least counts.
const (
	costCalls = 20000
	costRuns  = 5
)

// costs are the calls that BenchmarkCosts counts, by the names of their metrics.
var costs = map[string]struct {
	outside bool   // the process is outside of phones
	step    string // of costStep
}{
	"setresuid": {step: "setresuid"},
	"outside":   {outside: true, step: "setresuid"},
	"file":      {step: "rename file"},
	"directory": {step: "rename directory"},
	"install":   {step: "install"},
}

// BenchmarkCosts counts the instructions of calls that the programs look at, in a machine whose time is instructions, to those of the same calls of the
// same kernel without the programs. An iteration makes each call five times 20 000 times without them, opens a guard, makes each as often, and
// takes the guard away; the least mean of 20 000 counts, which is what the least has interrupted:
//
//	setresuid   in a phone with 10 000 apps, to one and another of them
//	outside     the same in a cgroup as deep that is no phone's
//	file        in a phone, a file to and fro in one directory
//	directory   in a phone, a directory to and fro where no packages are
//	install     in a phone with a list of 500 packages, a directory to app/~~RANDOM/PACKAGE-RANDOM
//
// The files are on a tmpfs, whose renames are the cheapest there are.
func BenchmarkCosts(b *testing.B) {
	if target, _ := vm.Guest(); !strings.Contains(target, vm.Counted.Name()) {
		b.Skip("instructions are counted in a machine of the variant " + vm.Counted.Name() + ": go run ./scripts/bench -only Costs")
	}
	b.Cleanup(func() { removeAll(b) })
	of := makePhone(b, "p1")
	other := makeCgroups(b, filepath.Join(cgroupMount(), fmt.Sprintf("others%d", os.Getpid()))) // as deep
	least := map[string]float64{}
	for b.Loop() {
		countCosts(b, of, other, least, "none_")
		g := reopen(b)
		if s := g.Status(); s.Tier != appguard.TierA {
			b.Fatalf("it is %s: %q", s, s.Why)
		}
		of.set(b, g, costRules())
		countCosts(b, of, other, least, "")
		g.Close()
		if err := appguard.Remove(dir, cgroupRoot()); err != nil {
			b.Fatal(err)
		}
	}
	for name := range costs {
		b.ReportMetric(least[name], name)
		b.ReportMetric(least["none_"+name], "none_"+name)
		b.ReportMetric(least[name]/least["none_"+name], name+"_ratio")
	}
	b.ReportMetric(0, "ns/op")
}

// countCosts counts what each call costs in a phone and elsewhere, and keeps the least by its name with a prefix.
func countCosts(b *testing.B, of, other phone, least map[string]float64, prefix string) {
	b.Helper()
	var counted []string
	for _, name := range slices.Sorted(maps.Keys(costs)) {
		c, in := costs[name], of
		if c.outside {
			in = other
		}
		met := in.guest(b, "cost "+c.step)
		if len(met) != 2 || met[1] != "done" {
			b.Fatalf("%s meets %v", name, met)
		}
		cost, err := strconv.ParseFloat(met[0], 64)
		if err != nil {
			b.Fatal(err)
		}
		counted = append(counted, fmt.Sprintf("%s%s %.1f", prefix, name, cost))
		if have, found := least[prefix+name]; !found || cost < have {
			least[prefix+name] = cost
		}
	}
	b.Log(strings.Join(counted, ", "))
}

// costRules are those of a phone that has as many apps as there are app ids, of which one of ten may not run.
func costRules() appguard.Phone {
	p := appguard.Phone{Apps: map[uint32]appguard.Bits{}, Names: benchNames(0)}
	for app := uint32(10000); app < 20000; app++ {
		p.Apps[app] = 0
		if app%10 == 0 {
			p.Apps[app] = appguard.DenyRun | appguard.DenyNetwork
		}
	}
	return p
}

// benchNames are the 500 packages of a list.
func benchNames(list int) (names []appguard.Name) {
	for i := range 500 {
		names = append(names, appguard.Name{Name: fmt.Sprintf("com.example%d.app%d", list, i), Deny: true})
	}
	return names
}

// costStep makes a call again and again and prints what one costs, in nanoseconds of this process's clock.
func costStep(args []string) error {
	kinds := map[string]func(args []string) (time.Duration, error){"setresuid": costSetresuid, "rename": costRename, "install": costInstall}
	least := time.Hour
	for range costRuns {
		took, err := kinds[args[0]](args[1:])
		if err != nil {
			return err
		}
		least = min(least, took)
	}
	fmt.Printf("%.1f\n", float64(least)/costCalls)
	return nil
}

// costSetresuid takes the real uid of one app and of another in turns.
func costSetresuid([]string) (time.Duration, error) {
	began := time.Now()
	for i := range costCalls {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 10501+uintptr(i&1), ^uintptr(0), ^uintptr(0)); errno != 0 {
			return 0, errno
		}
	}
	return time.Since(began), nil
}

// costDir mounts a file system, as a phone's data is one, at the same place each time: what a path costs depends on it.
func costDir() (dir string, remove func(), err error) {
	dir = filepath.Join(os.TempDir(), "appguard-cost")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	return dir, func() { _ = unix.Unmount(dir, unix.MNT_DETACH); os.Remove(dir) }, nil
}

// costRename renames a file or a directory to and fro.
func costRename(args []string) (time.Duration, error) {
	dir, remove, err := costDir()
	if err != nil {
		return 0, err
	}
	defer remove()
	names := [2]string{filepath.Join(dir, "one"), filepath.Join(dir, "other")}
	if args[0] == "file" {
		err = os.WriteFile(names[0], nil, 0o644)
	} else {
		err = os.Mkdir(names[0], 0o755)
	}
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for i := range costCalls {
		if err := unix.Rename(names[i&1], names[i&1^1]); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// costInstall renames directories to where packages are, some hundred in a row, and takes them back in between, which does not count.
func costInstall([]string) (took time.Duration, err error) {
	dir, remove, err := costDir()
	if err != nil {
		return 0, err
	}
	defer remove()
	const some = 500
	var staged, installed []string
	for i := range some {
		staged = append(staged, fmt.Sprintf("%s/app/vmdl%d.tmp", dir, 1000+i))
		installed = append(installed, fmt.Sprintf("%s/app/~~Wm9vbSBJ%d==/com.example.game%d-c29tZSBieX==", dir, i, i))
		if err := os.MkdirAll(staged[i], 0o755); err != nil {
			return 0, err
		}
		if err := os.Mkdir(filepath.Dir(installed[i]), 0o755); err != nil {
			return 0, err
		}
	}
	for range costCalls / some {
		began := time.Now()
		for i := range some {
			if err := unix.Rename(staged[i], installed[i]); err != nil {
				return 0, err
			}
		}
		took += time.Since(began)
		for i := range some {
			if err := unix.Rename(installed[i], staged[i]); err != nil {
				return 0, err
			}
		}
	}
	return took, nil
}

// BenchmarkVerified tells how much of what the verifier may look at, a million instructions, the program takes that needs most.
func BenchmarkVerified(b *testing.B) {
	g := open(b)
	for b.Loop() {
		verified, errs := g.VerifiedInstructions()
		for name, err := range errs {
			b.Errorf("%s: %v", name, err)
		}
		b.ReportMetric(float64(slices.Max(slices.Collect(maps.Values(verified))))/1e6*100, "percent")
	}
	b.ReportMetric(0, "ns/op")
}

// adoptPhones is how many phones BenchmarkAdopt has, and adoptAtOnce how many are set at a time, as the agent does.
const (
	adoptPhones = 100
	adoptAtOnce = 128
)

// BenchmarkAdopt has a guard take over what another has left pinned for 100 phones, each with 300 apps and a list of its own of 500 packages, and be told
// once more what they may, which an agent does that starts; to the same where nothing is pinned, so that all is loaded and set. Both have
// the canary show what is obeyed.
func BenchmarkAdopt(b *testing.B) {
	var rules []appguard.Phone
	for slot := range uint32(adoptPhones) {
		p := appguard.Phone{Slot: slot, Apps: map[uint32]appguard.Bits{}, Names: benchNames(int(slot))}
		for i := range uint32(300) {
			p.Apps[10000+i] = appguard.DenyRun
		}
		rules = append(rules, p)
	}
	open(b).Close()
	var cold, adopted []float64
	for b.Loop() {
		removeAll(b)
		cold = append(cold, timedOpen(b, rules))
		adopted = append(adopted, timedOpen(b, rules))
	}
	slices.Sort(cold)
	slices.Sort(adopted)
	ours, theirs := adopted[len(adopted)/2], cold[len(cold)/2]
	b.ReportMetric(ours, "ms")
	b.ReportMetric(theirs, "cold_ms")
	b.ReportMetric(ours/theirs, "ratio")
	b.ReportMetric(0, "ns/op")
}

// timedOpen opens a guard and tells it what phones may, and returns the milliseconds that took.
func timedOpen(b *testing.B, rules []appguard.Phone) float64 {
	b.Helper()
	began := time.Now()
	g, err := appguard.Open(b.Context(), config())
	if err != nil {
		b.Fatal(err)
	}
	var setting errgroup.Group
	setting.SetLimit(adoptAtOnce)
	for _, p := range rules {
		setting.Go(func() error { return g.SetPhone(uint64(1000+p.Slot), p) })
	}
	err = setting.Wait()
	took := time.Since(began)
	if err != nil {
		b.Fatal(err)
	}
	if err := g.Close(); err != nil {
		b.Error(err)
	}
	return float64(took) / 1e6
}
