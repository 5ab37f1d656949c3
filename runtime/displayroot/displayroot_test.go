package displayroot

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/testenv"
)

// TestRunsInItsRoot assembles a root for a real dynamic program with a library it would open itself, and runs it in nothing but that.
func TestRunsInItsRoot(t *testing.T) {
	testenv.Root(t)
	program := testenv.Tool(t, "curl") // many libraries, several levels deep
	dir := t.TempDir()
	root, err := Assemble(t.Context(), Config{Dir: dir, Binary: program, Sonames: []string{"libm.so.6"}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "chroot"), root, Program, "--version")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "curl ") {
		t.Errorf("the program in its root: %v\n%s", err, out)
	}
	for _, point := range mountpoints {
		if info, err := os.Stat(filepath.Join(root, point)); err != nil || !info.IsDir() {
			t.Errorf("%s is no directory of the root: %v", point, err)
		}
	}
	if libm, _ := filepath.Glob(filepath.Join(root, "lib/*/libm.so.6")); len(libm) != 1 {
		t.Errorf("libm.so.6 in the root: %v, want one", libm)
	}
	if _, err := os.Stat(filepath.Join(root, "etc")); !os.IsNotExist(err) {
		t.Error("the root has the host's /etc")
	}
}

func TestSameContentSameRoot(t *testing.T) {
	program, dir := testenv.Tool(t, "curl"), t.TempDir()
	first, err := Assemble(t.Context(), Config{Dir: dir, Binary: program})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Assemble(t.Context(), Config{Dir: dir, Binary: program})
	if err != nil {
		t.Fatal(err)
	}
	other, err := Assemble(t.Context(), Config{Dir: dir, Binary: testenv.Tool(t, "bash")})
	if err != nil {
		t.Fatal(err)
	}
	if first != again || first == other {
		t.Errorf("roots %s, %s and %s: want the first two the same and the third another", first, again, other)
	}
	if err := os.Mkdir(filepath.Join(dir, buildingPrefix+"crashed"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Prune(dir, []string{first}); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "[^.]*"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(left, []string{first}) {
		t.Errorf("after Prune there are %v, want only %s", left, first)
	}
	// The last one that was assembled is gone, whatever is remembered of it.
	if root, err := Assemble(t.Context(), Config{Dir: dir, Binary: testenv.Tool(t, "bash")}); err != nil || root != other {
		t.Errorf("a root that was pruned: %s %v, want %s again", root, err, other)
	}
}

// TestFilesAreReadOnlyWhenChanged tells a read by its result: what is remembered of unchanged files is believed.
func TestFilesAreReadOnlyWhenChanged(t *testing.T) {
	dir, program := t.TempDir(), filepath.Join(t.TempDir(), "program")
	content, err := os.ReadFile(testenv.Tool(t, "bash"))
	if err != nil {
		t.Fatal(err)
	}
	put := func() {
		t.Helper()
		if err := os.WriteFile(program+".new", content, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
	}
	assemble := func() string {
		t.Helper()
		root, err := Assemble(t.Context(), Config{Dir: dir, Binary: program})
		if err != nil {
			t.Fatal(err)
		}
		return root
	}
	put()
	read := assemble()
	marker := filepath.Join(dir, strings.Repeat("0", nameLength))
	if err := os.Mkdir(marker, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(stamp string) error{
		"another file with the same content": func(string) error { put(); return nil },
		"times":                              func(string) error { return os.Chtimes(program, time.Unix(1, 0), time.Unix(1, 0)) },
		"a stamp of other files":             func(stamp string) error { return remember(marker, strings.Repeat("f", len(stamp))) },
		"half a stamp":                       func(stamp string) error { return os.WriteFile(filepath.Join(dir, stampName), []byte(stamp+" "), 0o600) },
		"no stamp":                           func(string) error { return os.Remove(filepath.Join(dir, stampName)) },
	} {
		put()
		assemble()
		text, err := os.ReadFile(filepath.Join(dir, stampName))
		if err != nil {
			t.Fatal(err)
		}
		stamp, _, _ := strings.Cut(string(text), " ")
		if err := remember(marker, stamp); err != nil {
			t.Fatal(err)
		}
		if got := assemble(); got != marker {
			t.Fatalf("unchanged files were read again: the root is %s, want %s", got, marker)
		}
		if err := change(stamp); err != nil {
			t.Fatal(err)
		}
		if got := assemble(); got != read {
			t.Errorf("%s: the root is %s, want %s", name, got, read)
		}
	}
}

func TestMissingLibrary(t *testing.T) {
	dir := t.TempDir()
	_, err := Assemble(t.Context(), Config{Dir: dir, Binary: testenv.Tool(t, "curl"), Sonames: []string{"libnowhere.so.7"}})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "libnowhere.so.7") {
		t.Errorf("error is %v, want ErrNotFound that names libnowhere.so.7", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("a root that could not be assembled left %v", left)
	}
}

func TestLoaderDirs(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/ld.so.conf":            "include /etc/ld.so.conf.d/*.conf\n/opt/first # a comment\n",
		"etc/ld.so.conf.d/x.conf":   "# comment\n/usr/local/lib\n\n",
		"etc/ld.so.conf.d/y.conf":   "include /etc/ld.so.conf\n/opt/y\n", // a loop
		"etc/ld.so.conf.d/z.ignore": "/opt/ignored\n",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dirs := loaderDirs(root)
	for _, want := range []string{"/usr/local/lib", "/opt/y", "/opt/first", "/lib", "/usr/lib"} {
		if !slices.Contains(dirs, want) {
			t.Errorf("%s is not in %v", want, dirs)
		}
	}
	if slices.Contains(dirs, "/opt/ignored") {
		t.Errorf("%v has a directory of a file that is not included", dirs)
	}
}

func TestSonames(t *testing.T) {
	if got := Sonames(" a.so.1\n\nb.so.2\n"); !slices.Equal(got, []string{"a.so.1", "b.so.2"}) {
		t.Errorf("got %q", got)
	}
}
