package guard

import (
	"errors"
	"os"
	"testing"

	"github.com/cilium/ebpf"
)

// TestVerifierTakesPrograms has this kernel's verifier look at the programs. They are loaded as raw tracepoints, which see the same
// arguments and helpers and are attached to nothing: containers may load these, and none for security hooks.
func TestVerifierTakesPrograms(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Skipf("this kernel has no type information: %v", err)
	}
	l, err := readLayout()
	if err != nil {
		t.Fatal(err)
	}
	newMap := func(spec ebpf.MapSpec) *ebpf.Map {
		m, err := ebpf.NewMap(&spec)
		if errors.Is(err, os.ErrPermission) {
			t.Skipf("bpf(2) is refused here: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	m := &maps{
		guests:      newMap(ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 1, MaxEntries: 1}),
		canary:      newMap(ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}),
		filesystems: newMap(ebpf.MapSpec{Type: ebpf.Hash, KeySize: nameSize, ValueSize: 4, MaxEntries: 1}),
		names:       newMap(ebpf.MapSpec{Type: ebpf.Hash, KeySize: nameSize, ValueSize: 4, MaxEntries: 1}),
	}
	for _, hook := range hooks {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.RawTracepoint, License: "Dual MIT/GPL", Instructions: instructions(hook, m, 3, l),
		})
		if err != nil {
			t.Errorf("%s: %+v", hook, err)
			continue
		}
		// Of the million that a kernel takes. Some need seconds for a loop that is walked.
		if info, err := prog.Info(); err != nil {
			t.Error(err)
		} else if n, ok := info.VerifiedInstructions(); ok && n > 1000 {
			t.Errorf("%s: the verifier walks %d instructions, want at most 1000", hook, n)
		}
		prog.Close()
	}
}
