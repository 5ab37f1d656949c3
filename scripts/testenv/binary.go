package testenv

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/phonehost/phonehost/scripts/gobuild"
)

// BinariesEnv is the environment variable that names a directory of programs which were built before the test started. Where it is
// set nothing is built: the tests run in a machine without a go command.
const BinariesEnv = "PHONEHOST_TEST_BINARIES"

// builds remembers what this test process has built: package and architecture to result.
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
	return build(t, pkg, filepath.Base(pkg), func() (string, error) {
		return gobuild.Build(context.Background(), gobuild.Request{Package: pkg})
	})
}

// BinaryFor is Binary for an architecture whose programs this machine runs beside its own, without C: "386" on amd64, "arm" on arm64.
// Among programs that were built before it is called NAME-ARCH.
func BinaryFor(t testing.TB, pkg, arch string) string {
	t.Helper()
	return build(t, pkg+"-"+arch, filepath.Base(pkg)+"-"+arch, func() (string, error) {
		return gobuild.Build(context.Background(), gobuild.Pure(pkg, arch))
	})
}

// PureBinary is Binary for a program that runs where there is no C library: it is built without C.
func PureBinary(t testing.TB, pkg string) string {
	t.Helper()
	return build(t, pkg+" without C", filepath.Base(pkg), func() (string, error) {
		return gobuild.Build(context.Background(), gobuild.Pure(pkg, runtime.GOARCH))
	})
}

// Testphone makes the image archive of testphone, of all its architectures, and returns its path. It is made once per test process.
// Where programs were built before, it is testphone.tar among them, missing as in Binary.
func Testphone(t testing.TB) string {
	t.Helper()
	const name = "testphone.tar"
	return build(t, name, name, func() (string, error) { return gobuild.Testphone(context.Background()) })
}

// build returns the path of what was built before under the name, or of what this process builds, once.
func build(t testing.TB, what, name string, now func() (string, error)) string {
	t.Helper()
	if path, ok := Prebuilt(name); ok {
		if _, err := os.Stat(path); err != nil {
			Missing(t, "binaries", fmt.Sprintf("%s is not among the programs that were built before this test: %s", what, path))
		}
		return path
	}
	builds.mu.Lock()
	defer builds.mu.Unlock()
	b, ok := builds.done[what]
	if !ok {
		b.path, b.err = now()
		if builds.done == nil {
			builds.done = make(map[string]built)
		}
		builds.done[what] = b
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
