package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/vm/ready"
)

// parseShell returns what the words of a command line ask for.
func parseShell(t *testing.T, words ...string) shellCmd {
	t.Helper()
	var c cli
	parser, err := kong.New(&c, kong.Vars{"arch": "arm64", "variants": ""})
	if err == nil {
		_, err = parser.Parse(append([]string{"shell"}, words...))
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.Shell
}

func TestShellFlags(t *testing.T) {
	for _, tt := range []struct{ words, spec, command string }{
		{"", "6.12-arm64-system", "bash"},
		{"--kind=kernel", "6.12-arm64", "sh"},
		{"--arch=amd64 --kernel=6.1 --variant=nopsi,cgroupv1", "6.1-amd64-system-nopsi-cgroupv1", "bash"},
		{"--variant=nopsi --variant=novicodec --kernel 7.3 -- ls -l --arch", "7.3-arm64-system-nopsi-novicodec", "ls -l --arch"},
		{"--kind=kernel ls -l -- x", "6.12-arm64", "ls -l -- x"},
		{"--kind=kernel --", "6.12-arm64", "sh"},
	} {
		t.Run(tt.words, func(t *testing.T) {
			c := parseShell(t, strings.Fields(tt.words)...)
			spec, err := c.spec(ready.Architectures(), []string{"6.1", "6.12", "7.3"})
			if err != nil || spec.String() != tt.spec {
				t.Errorf("the machine is %s, %v, want %s", spec, err, tt.spec)
			}
			if got := strings.Join(c.command(spec), " "); got != tt.command {
				t.Errorf("the command is %q, want %q", got, tt.command)
			}
		})
	}
}

// TestShellRefusals finds that what cannot be started is refused before anything is built: there is no mirror.
func TestShellRefusals(t *testing.T) {
	t.Setenv("PHONEHOST_VM_MIRROR", "http://127.0.0.1:1/debian")
	cache := t.TempDir()
	for _, tt := range []struct{ words, want string }{
		{"--arch=riscv64", "amd64, arm64"},
		{"--kernel=5.4", "6.1, 6.12, 7.3"},
		{"--kind=phone", `"system","kernel"`},
		{"--variant=slow", "nobpflsm, preemptfull, nopsi, cgroupv1, novicodec, multiplanar, firewalls, counted"},
		{"--variant=nopsi,nopsi", "twice"},
		{"--arch=arm64 --variant=preemptfull", "take no preempt="},
		{"--kernel=6.1 --variant=multiplanar", "no vicodec"},
		{"--memory=-1", "above 0"},
		{"--cpus=some", "some"},
		{"--put=/no/such/file:/tmp/", "no file /no/such/file"},
		{"--put=" + cache, "is a directory"},
		{"--fresher", "--fresh"},
	} {
		t.Run(tt.words, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := execute(append([]string{"--cache", cache, "shell"}, strings.Fields(tt.words)...), nil, &out, &errs)
			if code != 2 || !strings.Contains(errs.String(), tt.want) || out.Len() > 0 {
				t.Errorf("exit code %d, want 2, and words about %q:\n%s%s", code, tt.want, &out, &errs)
			}
		})
	}
}

func TestParsePuts(t *testing.T) {
	dir := t.TempDir()
	file, colon := filepath.Join(dir, "file"), filepath.Join(dir, "a:b")
	for _, name := range []string{file, colon} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := parsePuts([]string{file, file + ":/tmp/", file + ":/etc/other", colon, colon + ":/x"})
	want := []put{{file, "/root/file"}, {file, "/tmp/file"}, {file, "/etc/other"}, {colon, "/root/a:b"}, {colon, "/x"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(put{})); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := parsePuts([]string{file + ":tmp"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a path that is not absolute: %v", err)
	}
}
