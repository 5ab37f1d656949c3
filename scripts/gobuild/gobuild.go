// Package gobuild builds programs and test binaries of this repository for tests, and for people who try them in a machine of the VM
// lab: into a directory of the user's below the system's temporary one, one per checkout, so that a later process finds an unchanged
// one linked already.
//
// Processes run side by side; each result has a lock file, under which one builds and the others then find it done.
package gobuild

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Module is the path of the module that this repository is.
const Module = "github.com/phonehost/phonehost"

// Request names what to build.
type Request struct {
	// Package is a directory of the repository, "runtime/cmd/phone-log".
	Package string
	// Test asks for the package's test binary.
	Test bool
	// Variant is a directory below the common one, "arm64"; "" is the common one. Requests that differ in Env or Flags differ in it.
	Variant string
	// Env is added to the process's environment, Flags to the go command's.
	Env, Flags []string
}

// Pure returns the request for a program without C for an architecture, as Go calls it.
func Pure(pkg, arch string) Request {
	return Request{
		Package: pkg, Variant: arch, Env: []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch}, Flags: []string{"-ldflags=-s -w"},
	}
}

// Build builds what r names and returns its path. ctx ends the compiler.
func Build(ctx context.Context, r Request) (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, r.Variant)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the directory of test binaries: %w", err)
	}
	name, args := filepath.Base(r.Package), []string{"build"}
	if r.Test {
		// Test binaries of packages with the same last element stay apart.
		// They are vetted where they are tested at home, not once more for each architecture.
		name, args = strings.ReplaceAll(r.Package, "/", "_")+".test", []string{"test", "-c", "-vet=off"}
	}
	path := filepath.Join(dir, name)
	lock, err := os.OpenFile(filepath.Join(dir, "."+name+".lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", fmt.Errorf("open the lock of a test binary: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock a test binary: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", append(append(args, r.Flags...), "-o", path, Module+"/"+r.Package)...)
	cmd.Env = append(os.Environ(), r.Env...)
	if cmd.Dir, err = Repository(); err != nil {
		return "", err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", r.Package, err, out)
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("build %s: the go command made nothing: does the package have tests?", r.Package)
	}
	return path, nil
}

// Dir is a directory that only this user can write, one for each checkout of the repository.
func Dir() (string, error) {
	repo, err := Repository()
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

// Repository is the root of the checkout around the working directory: go test starts a test in its package's directory.
func Repository() (string, error) {
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
