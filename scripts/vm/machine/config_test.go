package machine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestCounted: a machine that counts instructions has one processor, which QEMU emulates and counts for.
func TestCounted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Variant: Variant{Counted: true}}
	c.Kernel.Arch, c.Kernel.Image, c.Kernel.Modules, c.Initrd.Path = "arm64", file, file, file
	good, err := c.checked()
	if err != nil {
		t.Fatal(err)
	}
	args := good.devices(emulator{platform: platforms["arm64"]}, TCG)
	for _, want := range []string{"-smp 1", "-icount shift=0", "-accel tcg,thread=single"} {
		if !strings.Contains(strings.Join(args, " "), want) {
			t.Errorf("QEMU's arguments %q lack %s", args, want)
		}
	}
	c.Variant.Counted = false
	if args := c.devices(emulator{platform: platforms["arm64"]}, TCG); slices.Contains(args, "-icount") {
		t.Errorf("a usual machine counts: %q", args)
	}
	for _, bad := range []Config{{CPUs: 2}, {Accelerator: KVM}} {
		bad.Variant.Counted = true
		if _, err := bad.checked(); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "counts instructions") {
			t.Errorf("%d processors and accelerator %q: %v", bad.CPUs, bad.Accelerator, err)
		}
	}
}
