package vm

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/vm/internal/replay"
)

// localEnv tells TestLocal, in a test process of its own, what to do. The tests below start that process.
const localEnv = "PHONEHOST_VM_LOCAL"

// realEnv makes it do so in machines of the lab instead of on a localHost.
const realEnv = "PHONEHOST_VM_REAL"

// TestLocal is what a test author writes, but on a localHost.
func TestLocal(t *testing.T) {
	mode := os.Getenv(localEnv)
	if mode == "" {
		t.Skip("only the other tests run this one")
	}
	targets := On("6.1", "6.12").And(On("7.3").Arch("arm64").With(NoPSI).Nightly())
	opts := []Option{Env(localEnv + "=" + mode), Files("docs/bench.md"), Programs("runtime/cmd/phone-log"), Require("root")}
	if mode == "hang" {
		opts = append(opts, Timeout(hangTime()))
	}
	if mode == "package" {
		packageOn(t, localHost{}, targets, "./scripts/testenv/vm/internal/pattern", append(opts, Except("Exactly")))
		return
	}
	if strings.HasPrefix(mode, "packages") {
		packagesOn(t, localHost{}, targets, localSuites(mode), opts)
		return
	}
	if name, ok := Guest(); ok {
		inside(t, targets, name, func(t *testing.T) { localBody(t, mode) })
		return
	}
	from := provider(localHost{dies: mode == "dies"})
	if os.Getenv(realEnv) != "" {
		from = &theLab
	}
	runOn(t, from, targets, opts)
	t.Log("all targets are through")
}

// hangTime is how long a test that hangs is given: enough for the start of what it hangs in.
func hangTime() time.Duration {
	if os.Getenv(realEnv) != "" {
		return 20 * time.Second
	}
	return 4 * time.Second
}

// localBody is what runs in the machine.
func localBody(t *testing.T, mode string) {
	target, _ := Guest()
	t.Run("place", func(t *testing.T) {
		for _, path := range []string{"testdata/note.txt", "../../../docs/bench.md", testenv.Binary(t, "runtime/cmd/phone-log")} {
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
		t.Logf("on %s, short %v, require %s", target, testing.Short(), os.Getenv("PHONEHOST_TEST_REQUIRE"))
	})
	t.Run("end", func(t *testing.T) {
		switch mode {
		case "fail":
			t.Error("as it was told")
		case "skip":
			t.Skip("as it was told")
		case "panic":
			panic("as it was told")
		case "exit":
			os.Exit(5)
		case "hang":
			select {}
		case "crash":
			if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
				t.Fatal(err)
			}
			select {}
		case "artifact":
			if err := os.WriteFile(filepath.Join(t.ArtifactDir(), "kept"), []byte("as it was told"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// runLocal runs TestLocal in a process of its own and returns how each test ended, and all output.
func runLocal(t *testing.T, mode, gate string, args ...string) (map[string]replay.Kind, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, append([]string{"-test.v=test2json", "-test.run=^TestLocal$"}, args...)...)
	cmd.Env = append(os.Environ(), localEnv+"="+mode, gateEnv+"="+gate)
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	results := make(map[string]replay.Kind)
	p := replay.NewParser(func(e replay.Event) {
		switch e.Kind {
		case replay.Pass, replay.Fail, replay.Skip:
			results[strings.TrimPrefix(strings.TrimPrefix(e.Test, "TestLocal"), "/")] = e.Kind
		}
	})
	p.Write(out)
	p.Close()
	return results, string(out)
}

func TestRun(t *testing.T) {
	const pass, fail, skip = replay.Pass, replay.Fail, replay.Skip
	four := func(target, place, end replay.Kind) map[string]replay.Kind {
		want := map[string]replay.Kind{"": target}
		if target == skip {
			want[""] = pass
		}
		for _, name := range []string{"6.1-amd64", "6.1-arm64", "6.12-amd64", "6.12-arm64"} {
			want[name], want[name+"/place"], want[name+"/end"] = target, place, end
		}
		want["7.3-arm64-nopsi"] = skip
		return want
	}
	for _, tt := range []struct {
		name, mode, gate string
		args             []string
		want             map[string]replay.Kind
		text             []string
	}{
		{name: "pass", mode: "pass", gate: "subset", want: four(pass, pass, pass),
			text: []string{"on 6.12-arm64, short false, require root", "make test-vm-all", "all targets are through"}},
		{name: "fail", mode: "fail", gate: "subset", want: four(fail, pass, fail), text: []string{"as it was told"}},
		{name: "skip", mode: "skip", gate: "subset", want: four(pass, pass, skip)},
		{name: "panic", mode: "panic", gate: "subset", want: four(fail, pass, fail), text: []string{"panic: as it was told", "localBody"}},
		{name: "exit", mode: "exit", gate: "subset", want: four(fail, pass, fail), text: []string{"exited with code 5 in the middle of this test"}},
		{name: "hang", mode: "hang", gate: "subset", args: []string{"-test.run=^TestLocal$/6.1-amd64"},
			want: map[string]replay.Kind{"": fail, "6.1-amd64": fail, "6.1-amd64/place": pass, "6.1-amd64/end": fail},
			text: []string{"panic: test timed out", "select (no cases)"}},
		{name: "dies", mode: "dies", gate: "subset", want: four(fail, pass, pass), text: []string{"was lost while it ran tests: the machine ended"}},
		{name: "all", mode: "pass", gate: "all", args: []string{"-test.short", "-test.run=TestLocal/7"},
			want: map[string]replay.Kind{"": pass, "7.3-arm64-nopsi": pass, "7.3-arm64-nopsi/place": pass, "7.3-arm64-nopsi/end": pass},
			text: []string{"short true"}},
		{name: "one sub-test", mode: "fail", gate: "subset", args: []string{"-test.run=TestLocal/6.12-arm64/place"},
			want: map[string]replay.Kind{"": pass, "6.12-arm64": pass, "6.12-arm64/place": pass}},
		{name: "all but a sub-test", mode: "fail", gate: "subset", args: []string{"-test.run=TestLocal/6.12-arm64", "-test.skip=TestLocal/6.12-arm64/end"},
			want: map[string]replay.Kind{"": pass, "6.12-arm64": pass, "6.12-arm64/place": pass}},
		{name: "no gate", mode: "pass", want: map[string]replay.Kind{"": skip}, text: []string{"make test-vm"}},
		{name: "wrong gate", mode: "pass", gate: "yes", want: map[string]replay.Kind{"": fail}, text: []string{"want subset or all"}},
		{name: "package", mode: "package", gate: "subset", args: []string{"-test.run=TestLocal/6.1-arm64"},
			want: map[string]replay.Kind{"": pass, "6.1-arm64": pass, "6.1-arm64/FuzzBelow": pass, "6.1-arm64/FuzzBelow/seed#0": pass}},
		{name: "test of a package", mode: "package", gate: "subset", args: []string{"-test.run=TestLocal/6.1-arm64/FuzzBelow/seed"},
			want: map[string]replay.Kind{"": pass, "6.1-arm64": pass, "6.1-arm64/FuzzBelow": pass, "6.1-arm64/FuzzBelow/seed#0": pass}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, out := runLocal(t, tt.mode, tt.gate, tt.args...)
			for name := range got {
				if strings.Contains(name, "TestBelow") {
					delete(got, name) // there are many
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("results (-want +got):\n%s", diff)
			}
			for _, text := range tt.text {
				if !strings.Contains(out, text) {
					t.Errorf("%q was not printed", text)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

func TestCountRunsAnew(t *testing.T) {
	_, out := runLocal(t, "pass", "subset", "-test.run=TestLocal/6.1-amd64/place", "-test.count=2")
	if n := strings.Count(out, "--- PASS: TestLocal/6.1-amd64/place"); n != 2 {
		t.Errorf("the sub-test ran %d times, want 2:\n%s", n, out)
	}
}

func TestArtifactsAreFetched(t *testing.T) {
	dir := t.TempDir()
	_, out := runLocal(t, "artifact", "subset", "-test.run=TestLocal/6.1-amd64", "-test.artifacts", "-test.outputdir="+dir)
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "kept" {
			found = append(found, path)
		}
		return err
	})
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v:\n%s", found, err, out)
	}
	if text, err := os.ReadFile(found[0]); err != nil || string(text) != "as it was told" {
		t.Errorf("the artifact holds %q, %v", text, err)
	}
}

func TestSelection(t *testing.T) {
	for _, tt := range []struct {
		name, test, root, run, skip string
		want                        []string
	}{
		{"everything", "TestA/x", "TestA/x", "", "", []string{"-test.run=^TestA$/^x$"}},
		{"one below", "TestA/x", "TestA/x", "A/x/in", "", []string{"-test.run=^TestA$/^x$/in"}},
		{"one of two", "TestA/x", "TestA/x", "A/x/in|B", "A/y|A/x/in/er", []string{"-test.run=^TestA$/^x$/in", "-test.skip=^TestA$/^x$/in/er"}},
		{"whole process", "TestA/x", "", "A", "", []string{"-test.run=", "-test.skip="}},
		{"some of a process", "TestA/x", "", "A/x/TestB/c|A/x/TestD", "A/x/TestE", []string{"-test.run=TestB/c|TestD", "-test.skip=TestE"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := selection(tt.test, tt.root, tt.run, tt.skip)
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
	if _, err := selection("TestA/x", "", "Test(", ""); err == nil {
		t.Error("a pattern that is no regular expression was taken")
	}
}

func TestTargets(t *testing.T) {
	all := On("6.1", "6.12").And(On("7.3").Arch("arm64").System().With(NoPSI).With(CgroupV1), On("6.12").With(NoVicodec).Arch("amd64").Nightly())
	var got []string
	for _, target := range all {
		got = append(got, target.String())
	}
	want := []string{"6.1-amd64", "6.1-arm64", "6.12-amd64", "6.12-arm64", "7.3-arm64-system-nopsi-cgroupv1", "6.12-amd64-novicodec"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := all.check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Targets{nil, On("6.1").And(On("6.1")), {{Series: "6.1", Arch: "riscv64"}}, {{Arch: "arm64"}}, On("6.12").With(PreemptFull), On("6.1").With(MultiPlanar)} {
		if bad.check() == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
