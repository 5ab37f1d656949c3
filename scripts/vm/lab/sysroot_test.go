package lab

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestVMSysroot cross-compiles phone-display: its C includes FFmpeg's headers and links libyuv.
func TestVMSysroot(t *testing.T) {
	l := openLab(t)
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, arch := range l.Architectures() {
		t.Run(arch, func(t *testing.T) {
			env, err := l.CC(t.Context(), arch)
			if err != nil {
				t.Fatal(err)
			}
			program := filepath.Join(t.TempDir(), "phone-display")
			build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/phonehost/phonehost/encoder/cmd/phone-display")
			build.Env = append(os.Environ(), env...)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v with %q: %s", err, env, out)
			}
			f, err := elf.Open(program)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.Machine != machines[arch] {
				t.Errorf("phone-display is for %v, want %v", f.Machine, machines[arch])
			}
			needed, err := f.ImportedLibraries()
			if err != nil {
				t.Fatal(err)
			}
			for _, library := range needed {
				if !slices.Contains([]string{"libc.so.6", "libm.so.6", "ld-linux-aarch64.so.1", "ld-linux-x86-64.so.2"}, library) {
					t.Errorf("phone-display needs %s; FFmpeg is opened when it is needed, libyuv is linked statically", library)
				}
			}
		})
	}
}
