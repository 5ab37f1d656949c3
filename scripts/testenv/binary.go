package testenv

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/phonehost/phonehost/scripts/gobuild"
)

// BinariesEnv is the environment variable that names a directory of programs which were built before the test started. Where it is
// set nothing is built: the tests run in a machine without a go command.
const BinariesEnv = "PHONEHOST_TEST_BINARIES"

// builds remembers what this test process has built: import path to result.
var builds struct {
	mu   sync.Mutex
	done map[string]built
}

type built struct {
	path string
	err  error
}

// Binary builds the main package pkg of this repository ("runtime/cmd/phone-log") with the environment's CGO_ENABLED and returns
// the path of the program. Each package is built once per test process. The programs are kept in a directory of the user below
// the system's temporary directory, so that a later test process finds an unchanged one linked already.
//
// Where programs were built before, the program is taken from there; one that is missing skips the test, or fails it where the need
// "binaries" is promised.
func Binary(t testing.TB, pkg string) string {
	t.Helper()
	if path, ok := Prebuilt(filepath.Base(pkg)); ok {
		if _, err := os.Stat(path); err != nil {
			Missing(t, "binaries", fmt.Sprintf("%s is not among the programs that were built before this test: %s", pkg, path))
		}
		return path
	}
	builds.mu.Lock()
	defer builds.mu.Unlock()
	b, ok := builds.done[pkg]
	if !ok {
		b.path, b.err = gobuild.Build(context.Background(), gobuild.Request{Package: pkg})
		if builds.done == nil {
			builds.done = make(map[string]built)
		}
		builds.done[pkg] = b
	}
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}

// Prebuilt returns the path that a program or file called name has in the directory of PHONEHOST_TEST_BINARIES, and whether there is
// such a directory. The file itself may be missing.
func Prebuilt(name string) (string, bool) {
	dir := os.Getenv(BinariesEnv)
	return filepath.Join(dir, name), dir != ""
}
