package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// TestPrintEnv has a shell read what is printed.
func TestPrintEnv(t *testing.T) {
	var out bytes.Buffer
	if err := printEnv(&run{out: &out}, []string{"GOARCH=arm64", `CC=/usr/bin/cc '--sysroot=/a $dir'`, "EMPTY="}); err != nil {
		t.Fatal(err)
	}
	got, err := exec.CommandContext(t.Context(), "sh", "-c", out.String()+`printf '%s\n' "$GOARCH" "$CC" "$EMPTY"`).Output()
	if want := "arm64\n/usr/bin/cc '--sysroot=/a $dir'\n\n"; err != nil || string(got) != want {
		t.Errorf("the shell has %q, %v, want %q, of\n%s", got, err, want, &out)
	}
}

// TestVMCC runs a command in the environment of a cross build, and has it printed.
func TestVMCC(t *testing.T) {
	program(t)
	var out, errs bytes.Buffer
	code := execute([]string{"cc", "arm64", "--", "sh", "-c", `echo $GOARCH $CGO_ENABLED; cat; exit 5`}, strings.NewReader("stdin\n"), &out, &errs)
	if code != 5 || out.String() != "arm64 1\nstdin\n" {
		t.Errorf("exit code %d, want 5, and stdout %q\n%s", code, &out, &errs)
	}
	out.Reset()
	if code := execute([]string{"cc", "arm64"}, nil, &out, &errs); code != 0 || !strings.Contains(out.String(), "export GOARCH=arm64\n") || !strings.Contains(out.String(), "aarch64-linux-gnu-gcc '--sysroot=/") {
		t.Errorf("exit code %d, and stdout %q\n%s", code, &out, &errs)
	}
	if code := execute([]string{"cc", "arm64", "no-such-program"}, nil, &out, &errs); code != 1 || !strings.Contains(errs.String(), "no-such-program") {
		t.Errorf("a program that is not there: exit code %d\n%s", code, &errs)
	}
}
