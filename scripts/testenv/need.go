package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Root needs the effective user to be root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root", "this test must run as root")
	}
}

// Tool needs the program called name and returns its path. The directories of system programs are searched after the PATH.
func Tool(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	Missing(t, name, name+" is not installed")
	return ""
}

// Missing ends the test because a need is not met: as skipped, or as failed where the need was promised.
func Missing(t testing.TB, need, why string) {
	t.Helper()
	if promised(os.Getenv("PHONEHOST_TEST_REQUIRE"), need) {
		t.Fatalf("%s, and PHONEHOST_TEST_REQUIRE promises %q", why, need)
	}
	t.Skip(why)
}

// promised reports whether list, as PHONEHOST_TEST_REQUIRE holds it, names need.
func promised(list, need string) bool {
	names := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	return slices.Contains(names, need) || slices.Contains(names, "all")
}
