package lab

import (
	"bytes"
	"debug/elf"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// openLab opens the lab of this checkout where machines are promised.
func openLab(t *testing.T) *Lab {
	t.Helper()
	if os.Getenv("PHONEHOST_TEST_VM") == "" {
		t.Skip("the lab's assets are built only by make test-vm or PHONEHOST_TEST_VM=subset|all")
	}
	l, err := Open(Config{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestVMModules(t *testing.T) {
	l := openLab(t)
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, series := range l.Series() {
		for _, arch := range l.Architectures() {
			t.Run(series+"/"+arch, func(t *testing.T) {
				dir, err := l.Modules(t.Context(), arch, series)
				if err != nil {
					t.Fatal(err)
				}
				if series == "6.1" {
					if dir != "" {
						t.Errorf("modules in %s, want none: its kernel does not export what binderfs needs", dir)
					}
					return
				}
				want := []string{"binder_linux.ko", "vicodec.ko", "vim2m.ko"}
				if arch == "amd64" {
					want = []string{"binder_linux.ko", "v4l2-mem2mem.ko", "vicodec.ko", "vim2m.ko"} // arm64 kernels have it
				}
				if got := listed(t, dir); !slices.Equal(got, want) {
					t.Fatalf("modules %q, want %q", got, want)
				}
				for _, name := range want {
					checkModule(t, filepath.Join(dir, name), machines[arch], series+".")
				}
				if !bytes.Contains(mustRead(t, filepath.Join(dir, "binder_linux.ko")), []byte("binder-control")) {
					t.Error("binder_linux.ko is without binderfs")
				}
			})
		}
	}
}

// checkModule compares a module's machine and the kernel release that it says it is for.
func checkModule(t *testing.T, path string, machine elf.Machine, release string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != machine || f.Type != elf.ET_REL {
		t.Errorf("%s is a %v for %v, want a relocatable for %v", path, f.Type, f.Machine, machine)
	}
	if f.Section(".debug_info") != nil {
		t.Errorf("%s is not stripped", path)
	}
	info := f.Section(".modinfo")
	if info == nil {
		t.Fatalf("%s has no .modinfo", path)
	}
	text, err := info.Data()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(strings.Split(string(text), "\x00"), func(s string) bool { return strings.HasPrefix(s, "vermagic="+release) })
	if i < 0 {
		t.Errorf("%s is not for %s: %q", path, release, text)
	}
}

func listed(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
