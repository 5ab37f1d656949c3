package rules

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv"
)

// TestCross has `make cross` build every program that is installed on a host, and looks at what it made: for each architecture, of that
// architecture, and static but for phone-display, which opens FFmpeg itself and needs nothing else but the C library.
func TestCross(t *testing.T) {
	compilers := map[string]string{"amd64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}
	for _, compiler := range compilers {
		testenv.Tool(t, compiler)
	}
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), testenv.Tool(t, "make"), "--no-print-directory", "cross", "BIN="+bin)
	build.Dir = root(t)
	// A make that runs this test has flags that are not meant for this one.
	build.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=") })
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make cross: %v\n%s", err, out)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	libraries := map[string][]string{"phone-display": {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}}
	for arch, machine := range machines {
		for _, name := range installed(t) {
			f, err := elf.Open(filepath.Join(bin, arch, name))
			if err != nil {
				t.Errorf("make cross made no %s for %s: %v", name, arch, err)
				continue
			}
			if f.Machine != machine {
				t.Errorf("%s for %s is for %v, want %v", name, arch, f.Machine, machine)
			}
			if f.Type != elf.ET_EXEC {
				t.Errorf("%s for %s is of type %v: Go's linker could not try the C compiler's flags, and took none", name, arch, f.Type)
			}
			needed, err := f.ImportedLibraries()
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			for _, library := range needed {
				if !slices.Contains(libraries[name], library) {
					t.Errorf("%s for %s needs %s on the host", name, arch, library)
				}
			}
		}
	}
}

// installed are the names of the programs that scripts/systemd/install puts on a host.
func installed(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "scripts/systemd/install"))
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(text), "for program in ")
	list, _, ended := strings.Cut(list, ";")
	if names := strings.Fields(list); found && ended && len(names) >= 4 {
		return names
	}
	t.Fatal("scripts/systemd/install does not say which programs it installs")
	return nil
}
