package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const module = "github.com/phonehost/phonehost"

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
func Binary(t testing.TB, pkg string) string {
	t.Helper()
	builds.mu.Lock()
	defer builds.mu.Unlock()
	b, ok := builds.done[pkg]
	if !ok {
		b.path, b.err = build(pkg)
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

func build(pkg string) (string, error) {
	dir, err := binaryDir()
	if err != nil {
		return "", err
	}
	// Test processes run side by side: one builds, the others find it done.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", fmt.Errorf("open the lock of test binaries: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock test binaries: %w", err)
	}
	path := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", path, module+"/"+pkg)
	cmd.Dir, err = repository()
	if err != nil {
		return "", err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// binaryDir is a directory that only this user can write, one for each checkout of the repository.
func binaryDir() (string, error) {
	repo, err := repository()
	if err != nil {
		return "", err
	}
	info, err := os.Stat(repo)
	if err != nil {
		return "", fmt.Errorf("look at the repository: %w", err)
	}
	st := info.Sys().(*syscall.Stat_t)
	temp := filepath.Clean(os.TempDir())
	dir := filepath.Join(temp, fmt.Sprintf("phonehost-test-%d", os.Getuid()), fmt.Sprintf("%x-%x", st.Dev, st.Ino))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the directory of test binaries: %w", err)
	}
	for d := dir; d != temp; d = filepath.Dir(d) {
		info, err := os.Lstat(d)
		if err != nil {
			return "", fmt.Errorf("look at the directory of test binaries: %w", err)
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != os.Getuid() || !info.IsDir() {
			return "", fmt.Errorf("directory of test binaries %s belongs to somebody else", d)
		}
	}
	return dir, nil
}

// repository is the root of the checkout that the running test belongs to: go test starts it in its package's directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = parent
	}
}
