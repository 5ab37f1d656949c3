package host

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPipe(t *testing.T) {
	sh := func(script string) Command { return Command{Name: "sh", Args: []string{"-c", script}} }
	for name, tt := range map[string]struct {
		commands []Command
		out      string
		err      string // what the error has
	}{
		"one":                                    {[]Command{sh("echo a")}, "a\n", ""},
		"three":                                  {[]Command{sh("echo a"), sh("tr a b"), sh("tr b c")}, "c\n", ""},
		"locale":                                 {[]Command{sh("echo $LC_ALL")}, "C\n", ""},
		"status and its reason":                  {[]Command{sh("echo no such thing >&2; exit 3")}, "", "sh: exit status 3: no such thing"},
		"the first fails":                        {[]Command{sh("echo broken >&2; exit 1"), sh("cat")}, "", "broken"},
		"the last fails, the first cannot write": {[]Command{sh("yes"), sh("echo full >&2; exit 1")}, "", "full"},
		"a reader that is content":               {[]Command{sh("echo a; echo b"), sh("head -n 1")}, "a\n", ""},
		"missing in the middle":                  {[]Command{sh("echo a"), {Name: "no-such-program"}, sh("cat")}, "", "no-such-program"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			tt.commands[len(tt.commands)-1].Stdout = &out
			err := Pipe(t.Context(), tt.commands...)
			if (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want one with %q", err, tt.err)
			}
			if err == nil && out.String() != tt.out {
				t.Errorf("output %q, want %q", out.String(), tt.out)
			}
		})
	}
}

func TestErrorTellsOfTheProgram(t *testing.T) {
	err := Run(t.Context(), Command{Name: "sh", Args: []string{"-c", "i=0; while [ $i -lt 4000 ]; do echo line $i >&2; i=$((i+1)); done; exit 7"}})
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("got %v", err)
	}
	if text := err.Error(); !strings.HasSuffix(text, "line 3999") || strings.Count(text, "\n") > 8 {
		t.Errorf("the error has not the end of stderr in few lines: %s", text)
	}
	if n := len(Stderr(err)); n == 0 || n > 32<<10 {
		t.Errorf("%d bytes of stderr are kept", n)
	}
}

func TestContextEndsProgram(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	stop := writer(func() { cancel(why) })
	err := Run(ctx, Command{Name: "sh", Args: []string{"-c", "echo started; exec sleep 1000"}, Stdout: stop})
	if !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if err := Run(ctx, Command{Name: "true"}); !errors.Is(err, why) {
		t.Errorf("after the end: %v", err)
	}
}

// writer is called when something is written.
type writer func()

func (w writer) Write(p []byte) (int, error) { w(); return len(p), nil }

func TestLookNamesThePackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	packages := map[string]string{"no-such-program": "no-such-program", "qemu-img": "qemu-utils", "x86_64-linux-gnu-gcc": "gcc", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "riscv64-linux-gnu-gcc": "gcc-riscv64-linux-gnu"}
	if runtime.GOARCH == "arm64" {
		packages["x86_64-linux-gnu-gcc"], packages["aarch64-linux-gnu-gcc"] = "gcc-x86-64-linux-gnu", "gcc"
	}
	for name, pkg := range packages {
		if _, err := Look(name); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "package "+pkg+" ") {
			t.Errorf("%s: got %v, want its package %s", name, err, pkg)
		}
	}
}
