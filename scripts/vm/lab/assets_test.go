package lab

import (
	"bytes"
	"debug/elf"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/vm/host"
)

// TestVMKernels builds, or finds, every kernel and initrd of lab.toml and looks into them.
func TestVMKernels(t *testing.T) {
	l := openLab(t)
	for _, series := range l.Series() {
		for _, arch := range l.Architectures() {
			t.Run(series+"/"+arch, func(t *testing.T) {
				k, err := l.Kernel(t.Context(), arch, series)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(k.Release, series+".") || !strings.HasSuffix(k.Release, "-"+arch) {
					t.Errorf("the release is %q", k.Release)
				}
				checkImage(t, k)
				checkModulesOf(t, l, k)
				initrd, err := l.Initrd(t.Context(), k)
				if err != nil {
					t.Fatal(err)
				}
				checkInitrd(t, initrd)
				again, err := l.Kernel(t.Context(), arch, series)
				if err != nil || again != k {
					t.Errorf("the second time it is %+v, %v, want %+v", again, err, k)
				}
			})
		}
	}
}

func checkImage(t *testing.T, k Kernel) {
	t.Helper()
	text, err := os.ReadFile(k.Image)
	if err != nil {
		t.Fatal(err)
	}
	if k.Arch == "arm64" {
		if string(text[0x38:0x3c]) != "ARM\x64" {
			t.Error("the image is no Image")
		}
	} else if f, err := elf.NewFile(bytes.NewReader(text)); err != nil || f.Machine != elf.EM_X86_64 || checkPVH(text) != nil {
		t.Errorf("the image is no vmlinux that QEMU can enter: %v", err)
	}
	if !bytes.Contains(text, []byte("Linux version "+k.Release+" ")) {
		t.Errorf("the image does not say that it is %s", k.Release)
	}
}

// modulesIn are the names of the modules that the image of a kernel's has, and of those that are built in.
func modulesIn(t *testing.T, k Kernel) []string {
	t.Helper()
	var have []string
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		text, err := host.Output(t.Context(), "debugfs", "-R", "cat "+list, k.Modules)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			have = append(have, moduleName(file))
		}
	}
	return have
}

func checkModulesOf(t *testing.T, l *Lab, k Kernel) {
	t.Helper()
	deps, err := host.Output(t.Context(), "debugfs", "-R", "cat modules.dep", k.Modules)
	if err != nil {
		t.Fatal(err)
	}
	have := modulesIn(t, k)
	for _, name := range l.file.Modules.Wanted {
		if name = strings.ReplaceAll(name, "-", "_"); !strings.Contains(name, "*") && !slices.Contains(have, name) {
			t.Errorf("there is no module %s", name)
		}
	}
	own := strings.Contains(string(deps), "updates/vicodec.ko:") && strings.Contains(string(deps), "updates/binder_linux.ko:")
	if own != (len(l.file.Kernel[k.Series].Build) > 0) {
		t.Errorf("modules out of the tree: %v", own)
	}
	if strings.Contains(string(deps), ".ko.xz") || strings.Count(string(deps), "binder_linux.ko:") != 1 {
		t.Errorf("a packed module, or not one binder_linux, in modules.dep:\n%s", deps)
	}
}

func checkInitrd(t *testing.T, initrd Initrd) {
	t.Helper()
	text, err := os.ReadFile(initrd.Path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := output(t, text, "-t")
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(list)
	for _, want := range []string{"init", "bin/busybox", "modules/virtio_blk.ko", "modules/ext4.ko", "modules.order-of-load"} {
		if !slices.Contains(names, want) {
			t.Errorf("the initrd lacks %s: %q", want, names)
		}
	}
	if !bytes.HasPrefix(text, []byte("070701")) || len(text) > 32<<20 {
		t.Errorf("an initrd of %d bytes", len(text))
	}
}
