package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// binaries is where TestMain's build puts phonehostd, phonectl, phone-log, phone-display and testphone.tar, or where they were put
// before the tests (testenv.BinariesEnv).
type binaries struct{ dir string }

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

var buildDir string // set once by TestMain, before any test

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "phonehost-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	buildDir = dir
	code := netlab.Run(m) // the machine's own network is not the tests' to change
	os.RemoveAll(dir)
	os.Exit(code)
}

// buildDisplay makes phone-display, once for all tests.
var buildDisplay = sync.OnceValues(func() (string, error) {
	if path, ok := testenv.Prebuilt("phone-display"); ok {
		return path, nil
	}
	path := binaries{buildDir}.path("phone-display")
	return path, run([]string{"CGO_ENABLED=1"}, "go", "build", "-o", path, "./encoder/cmd/phone-display")
})

// build makes the binaries and the image, once for all tests.
var build = sync.OnceValues(func() (binaries, error) {
	if dir, ok := testenv.Prebuilt(""); ok {
		return binaries{dir}, nil
	}
	b := binaries{buildDir}
	pure := map[string]string{
		"phonehostd": "./agent/cmd/phonehostd",
		"phonectl":   "./agent/cmd/phonectl",
		"phone-log":  "./runtime/cmd/phone-log",
	}
	for name, pkg := range pure {
		if err := run([]string{"CGO_ENABLED=0"}, "go", "build", "-o", b.path(name), pkg); err != nil {
			return b, err
		}
	}
	if _, err := buildDisplay(); err != nil {
		return b, err
	}
	return b, run(nil, "go", "run", "./scripts/testphone/cmd/mkimage", "-o", b.path("testphone.tar"))
})

func run(env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return nil
}
