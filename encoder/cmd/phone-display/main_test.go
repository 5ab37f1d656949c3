package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/encoder/avcodec"
	"github.com/phonehost/phonehost/scripts/testenv"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func itoa(n int) string { return strconv.Itoa(n) }

func TestRun(t *testing.T) {
	dir := t.TempDir()
	serve := func(more ...string) []string {
		return append([]string{"--wayland-dir", dir, "--control-dir", dir}, more...)
	}
	for _, test := range []struct {
		name        string
		args        []string
		code        int
		out, errors string
	}{
		{"version", []string{"version"}, 0, "dev\n", ""},
		{"libraries", []string{"libraries"}, 0, "libavcodec.so.", ""},
		{"encoders", []string{"encoders"}, 0, "libx264\tok\tlibavcodec ", ""},
		{"help", []string{"-h"}, 0, "usage:", ""},
		{"nothing", nil, 2, "", "are required"},
		{"unknown command", []string{"dance"}, 2, "", `unknown command "dance"`},
		{"unknown flag", serve("--colour"), 2, "", "colour"},
		{"no number", serve("--width", "wide"), 2, "", `"wide"`},
		{"absurd size", serve("--width", "9", "--height", "100", "--fps", "30"), 1, "", "each side is 16..8192"},
		{"absurd rate", serve("--width", "90", "--height", "100", "--fps", "1000"), 1, "", "1..240"},
		{"unknown global", serve("--width", "90", "--height", "100", "--fps", "30", "--globals", "wl_magic"), 1, "", "wl_magic"},
		{"no directory", []string{"--wayland-dir", dir, "--control-dir", dir + "/none", "--width", "90", "--height", "100", "--fps", "30"},
			1, "", "listen for the agent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, errors bytes.Buffer
			if code := run(t.Context(), test.args, &out, &errors); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if !strings.Contains(out.String(), test.out) || !strings.Contains(errors.String(), test.errors) {
				t.Errorf("output %q, errors %q", &out, &errors)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("files are left: %v", left)
	}
}

// TestMissingLibrary hides libavcodec from the program and finds that it says so.
func TestMissingLibrary(t *testing.T) {
	testenv.Root(t)
	name := avcodec.Libraries()[1]
	found, _ := filepath.Glob("/usr/lib/*/" + name)
	if len(found) == 0 {
		t.Skipf("%s is not in /usr/lib", name)
	}
	out, err := exec.Command(testenv.Tool(t, "unshare"), "--mount", "sh", "-c",
		`mount --bind /dev/null "$1" && exec "$2" encoders`, "sh", found[0], testenv.Binary(t, "encoder/cmd/phone-display")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "libx264\tunavailable\t") || !strings.Contains(string(out), name) {
		t.Errorf("%v: %s", err, out)
	}
}
