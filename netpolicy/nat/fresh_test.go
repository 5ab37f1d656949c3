package nat_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMFreshMachine begins on machines whose kernel has no part of nftables loaded yet: where it cannot be had there is nothing to remove, and
// where it can the modules are waited for.
func TestVMFreshMachine(t *testing.T) {
	daily := vm.On("6.1").Arch("amd64").And(vm.On("6.1").Arch("amd64").System())
	nightly := vm.On("6.1").Arch("arm64").System().And(vm.On("6.12", "7.3").System()).Nightly()
	vm.Run(t, daily.And(nightly), func(t *testing.T) {
		n, err := nat.New(nat.Config{Pool4: pool4, Masquerade4: true, Timeouts: times})
		if err != nil {
			t.Fatal(err)
		}
		loaded := func() bool {
			modules, err := os.ReadFile("/proc/modules")
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(string(modules), "nf_tables ")
		}
		timed := func(what string, do func() error) {
			t.Helper()
			start := time.Now()
			if err := do(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			t.Logf("%s took %v", what, time.Since(start).Round(time.Millisecond))
		}
		remove := func() error { return n.Remove(t.Context()) }
		if loaded() {
			t.Fatal("the machine has nf_tables already")
		}
		const program = "/proc/sys/kernel/modprobe" // which loads the kernel's modules
		loader, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		sysctl(t, "kernel/modprobe", "/nothing/that/loads")
		timed("Remove where no module can be loaded", remove)
		sysctl(t, "kernel/modprobe", string(loader))
		if loaded() {
			t.Fatal("a module was loaded all the same")
		}
		timed("the first Remove", remove)
		timed("the first Apply", func() error { return n.Apply(t.Context(), nil) })
		if got := tables(t); len(got) != 1 || got[0] != nat.Table {
			t.Errorf("tables: %q", got)
		}
		timed("Remove", remove)
		if got := tables(t); len(got) != 0 {
			t.Errorf("tables after Remove: %q", got)
		}
	})
}

// tables are the names of all tables of nftables.
func tables(t testing.TB) []string {
	t.Helper()
	all, err := new(nftables.Conn).ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, table := range all {
		names = append(names, table.Name)
	}
	return names
}
