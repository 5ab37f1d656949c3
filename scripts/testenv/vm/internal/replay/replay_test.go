package replay

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// childEnv tells the test binary that it is the one which replays: the root of what it replays.
const childEnv = "PHONEHOST_REPLAY_ROOT"

// TestChild replays the fixture's tests in a process of its own, as they are meant to fail. The tests below run it.
func TestChild(t *testing.T) {
	root, ok := os.LookupEnv(childEnv)
	if !ok {
		t.Skip("only the other tests run this one")
	}
	t.Run("at", func(t *testing.T) {
		config := Config{T: t, Root: root, Artifacts: func(t *testing.T, path string) {
			text, err := os.ReadFile(filepath.Join(path, "note"))
			t.Logf("artifact: %s %v", text, err)
		}}
		r := New(config)
		cmd := exec.Command(os.Getenv("FIXTURE"), strings.Fields(os.Getenv("FIXTURE_ARGS"))...)
		cmd.Stdout, cmd.Stderr = r, r
		exit := Exit{}
		if err := cmd.Run(); err != nil {
			var failed *exec.ExitError
			if !errors.As(err, &failed) {
				t.Fatal(err)
			}
			exit.Code = failed.ExitCode()
		}
		if os.Getenv("FIXTURE_DIES") != "" {
			exit = Exit{Err: errors.New("the machine died")}
		}
		r.Finish(exit)
	})
}

// fixture builds the fixture's test binary.
var fixture = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "phonehost-replay-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "fixture.test")
	out, err := exec.Command("go", "test", "-c", "-o", path, "./testdata/fixture").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if _, child := os.LookupEnv(childEnv); !child {
		if path, err := fixture(); err == nil {
			os.RemoveAll(filepath.Dir(path))
		}
	}
	os.Exit(code)
}

// outcome is what a test process told about one test.
type outcome struct {
	Result Kind
	Output string
	Attrs  []string
}

// outcomes parses the output of a test process. The numbers of goroutines and the times in results are not compared.
func outcomes(text []byte) map[string]*outcome {
	all := make(map[string]*outcome)
	p := NewParser(func(e Event) {
		o := all[e.Test]
		if o == nil {
			o = new(outcome)
			all[e.Test] = o
		}
		switch e.Kind {
		case Output:
			o.Output += strings.TrimPrefix(string(e.Text), "    ")
		case Pass, Fail, Skip:
			o.Result = e.Kind
		case Attr:
			o.Attrs = append(o.Attrs, e.Key+"="+e.Value)
		}
	})
	p.Write(text)
	p.Close()
	return all
}

// local runs the fixture as it is.
func local(t *testing.T, args ...string) []byte {
	t.Helper()
	path, err := fixture()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	return out
}

// replayed runs TestChild on the fixture, with its own arguments, and returns what it printed and its exit code.
func replayed(t *testing.T, root string, fixtureArgs []string, env []string, args ...string) ([]byte, int) {
	t.Helper()
	path, err := fixture()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, append([]string{"-test.run=^TestChild$"}, args...)...)
	cmd.Env = append(os.Environ(), append(env, childEnv+"="+root, "FIXTURE="+path, "FIXTURE_ARGS="+strings.Join(fixtureArgs, " "))...)
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return out, cmd.ProcessState.ExitCode()
}

const verbose = "-test.v=test2json"

// TestSameAsLocal replays tests and finds every name, result, output and attribute as a local run has them.
func TestSameAsLocal(t *testing.T) {
	const run, parallel = "-test.run=TestPass|TestFail|TestSkip|TestNames|TestNoNewline|TestOutput|TestParallel|TestCleanup", "-test.parallel=8"
	want := outcomes(local(t, verbose, run, parallel))
	out, code := replayed(t, "", []string{verbose, run, parallel}, nil, verbose)
	if code != 1 {
		t.Errorf("exit code %d, want 1:\n%s", code, out)
	}
	got := outcomes(out)
	if len(want) < 25 {
		t.Fatalf("only %d tests ran: the comparison is worth nothing", len(want))
	}
	for name, w := range want {
		if name == "" {
			continue
		}
		g := got["TestChild/at/"+name]
		if g == nil {
			t.Errorf("%s was not replayed", name)
			continue
		}
		// Prints of one test without newline are followed by one at its end: T.Output does that.
		w.Output, g.Output = canonical(w.Output), canonical(g.Output)
		if name == "TestNoNewline" { // when something else is printed meanwhile, a line is ended before it: who comes first is chance
			w.Output, g.Output = strings.ReplaceAll(w.Output, "\n", ""), strings.ReplaceAll(g.Output, "\n", "")
		}
		if diff := cmp.Diff(w, g); diff != "" {
			t.Errorf("%s (-local +replayed):\n%s", name, diff)
		}
	}
	for name := range got {
		short, ok := strings.CutPrefix(name, "TestChild/at/")
		if ok && want[short] == nil {
			t.Errorf("%s was replayed and did not run", short)
		}
	}
}

func canonical(output string) string {
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "    ")
	}
	return strings.Join(lines, "\n")
}

// TestRootedAtATest replays one sub-test of the other process as this one's.
func TestRootedAtATest(t *testing.T) {
	out, _ := replayed(t, "TestFail", []string{verbose, "-test.run=^TestFail$"}, nil, verbose)
	got := outcomes(out)
	results := make(map[string]Kind)
	for name, o := range got {
		results[name] = o.Result
	}
	want := map[string]Kind{"": 0, "TestChild": Fail, "TestChild/at": Fail, "TestChild/at/good": Pass, "TestChild/at/bad": Fail, "TestChild/at/after": Pass}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, out)
	}
}

// TestEndings covers the ways in which a test process or its machine ends badly.
func TestEndings(t *testing.T) {
	for _, tt := range []struct {
		name, root string
		args, env  []string
		code       int
		failed     []string // below TestChild/at, "" for itself
		passed     []string
		skipped    bool
		text       map[string]string // test to what its output contains
	}{
		{name: "panic", root: "TestPanic", args: []string{"-test.run=^TestPanic$"}, code: 1, failed: []string{"", "/inner", "/inner/deep"}, passed: []string{"/before"},
			text: map[string]string{"/inner/deep": "fixture_test.go"}},
		{name: "panic in another goroutine", root: "TestPanicElsewhere", args: []string{"-test.run=^TestPanicElsewhere$"}, code: 1, failed: []string{"", "/inner"},
			text: map[string]string{"/inner": "panic: elsewhere"}},
		{name: "exit", root: "TestExit", args: []string{"-test.run=^TestExit$"}, code: 1, failed: []string{"", "/inner"}, passed: []string{"/before"},
			text: map[string]string{"/inner": "exited with code 3 in the middle of this test", "": "exited with code 3"}},
		{name: "exit without failure", root: "TestExitZero", args: []string{"-test.run=^TestExitZero$", "-test.paniconexit0"}, code: 1, failed: []string{"", "/inner"},
			text: map[string]string{"/inner": "unexpected call to os.Exit(0)"}},
		{name: "timeout", root: "TestHang", args: []string{"-test.run=^TestHang$", "-test.timeout=300ms"}, code: 1, failed: []string{"", "/inner"},
			text: map[string]string{"/inner": "goroutine "}},
		{name: "machine died", root: "TestFail", args: []string{"-test.run=^TestFail$/^good$"}, env: []string{"FIXTURE_DIES=1"}, code: 1, failed: []string{""}, passed: []string{"/good"},
			text: map[string]string{"": "the machine died"}},
		{name: "late failure", root: "TestOutput", args: []string{"-test.run=^TestOutput$"}, env: []string{"FIXTURE_LATE=1"}, code: 1, failed: []string{""},
			text: map[string]string{"": "the test ended well, but the test process exited with code 7"}},
		{name: "late failure of a process", args: []string{"-test.run=^TestOutput$"}, env: []string{"FIXTURE_LATE=1"}, code: 1, failed: []string{""}, passed: []string{"/TestOutput"},
			text: map[string]string{"": "no test failed, but the test process exited with code 7"}},
		{name: "never came to it", root: "TestFail/missing", args: []string{"-test.run=^TestFail$/^missing$"}, code: 1, failed: []string{""},
			text: map[string]string{"": "never came to TestFail/missing"}},
		{name: "skipped before", root: "TestSkip/never", args: []string{"-test.run=^TestSkip$/^never$"}, code: 0, skipped: true,
			text: map[string]string{"": "skipped there before"}},
		{name: "skipped", root: "TestSkip", args: []string{"-test.run=^TestSkip$"}, code: 0, skipped: true, text: map[string]string{"": "not today"}},
		{name: "no tests", args: []string{"-test.run=^TestNone$"}, code: 1, failed: []string{""}, text: map[string]string{"": "ran no tests"}},
		{name: "artifacts", root: "TestArtifacts", args: []string{"-test.run=^TestArtifacts$", "-test.artifacts", "-test.outputdir=" + t.TempDir()}, code: 0, passed: []string{""},
			text: map[string]string{"": "artifact: kept <nil>"}},
		{name: "artifacts of a sub-test", args: []string{"-test.run=^TestArtifacts$", "-test.artifacts", "-test.outputdir=" + t.TempDir()}, code: 0, passed: []string{"/TestArtifacts"},
			text: map[string]string{"/TestArtifacts": "artifact: kept <nil>"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, code := replayed(t, tt.root, append(tt.args, verbose), tt.env, verbose)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			got := outcomes(out)
			check := func(names []string, want Kind) {
				for _, name := range names {
					if o := got["TestChild/at"+name]; o == nil || o.Result != want {
						t.Errorf("%q is %v, want the result %d", name, o, want)
					}
				}
			}
			check(tt.failed, Fail)
			check(tt.passed, Pass)
			if tt.skipped {
				check([]string{""}, Skip)
			}
			for name, want := range tt.text {
				if o := got["TestChild/at"+name]; o == nil || !strings.Contains(o.Output, want) {
					t.Errorf("%q printed %v, want %q in it", name, o, want)
				}
			}
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}

// TestFilteredHere replays sub-tests that this process's own flags do not let run.
func TestFilteredHere(t *testing.T) {
	out, code := replayed(t, "", []string{verbose, "-test.run=^TestFail$"}, nil, verbose, "-test.skip=^TestChild$/^at$/^TestFail$/^bad$")
	got := outcomes(out)
	if code != 1 || got["TestChild/at/TestFail"] == nil || got["TestChild/at/TestFail"].Result != Fail {
		t.Errorf("exit code %d: a failure was lost:\n%s", code, out)
	}
	if got["TestChild/at/TestFail/bad"] != nil || !strings.Contains(got["TestChild/at/TestFail"].Output, "very wrong") {
		t.Errorf("the output of the sub-test did not go to its parent:\n%s", out)
	}
}

// TestQuiet finds that without -v only failures print, as in a local run.
func TestQuiet(t *testing.T) {
	out, _ := replayed(t, "", []string{verbose, "-test.run=TestFail|TestPass"}, nil)
	if bytes.Contains(out, []byte("two")) || bytes.Contains(out, []byte("fine")) || !bytes.Contains(out, []byte("very wrong")) {
		t.Errorf("printed:\n%s", out)
	}
}

// TestStreams finds that output arrives while the test still runs.
func TestStreams(t *testing.T) {
	var events []Event
	p := NewParser(func(e Event) { events = append(events, e) })
	p.Write([]byte("\x16=== RUN   TestA\n    a_test.go:1: hello\n"))
	want := []Event{{Kind: Run, Test: "TestA"}, {Kind: Output, Test: "TestA", Text: []byte("    a_test.go:1: hello\n")}}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPieces finds that it does not matter how the output is cut.
func TestPieces(t *testing.T) {
	text := local(t, verbose, "-test.run=TestPass|TestFail|TestNoNewline|TestNames")
	parse := func(size int) []Event {
		var events []Event
		p := NewParser(func(e Event) { events = append(events, e) })
		for piece := range slices.Chunk(text, size) {
			p.Write(piece)
		}
		p.Close()
		return events
	}
	whole := parse(len(text))
	for _, size := range []int{1, 2, 3, 7, 64, 1000} {
		if diff := cmp.Diff(whole, parse(size)); diff != "" {
			t.Errorf("in pieces of %d (-whole +pieces):\n%s", size, diff)
		}
	}
}

// FuzzParser finds that no output makes the parser fail, and that it loses nothing but what the testing package wrote.
func FuzzParser(f *testing.F) {
	f.Add([]byte("\x16=== RUN   TestA\nhello\n\x16--- FAIL: TestA (0.00s)\npanic: x\n\x16FAIL\n"))
	f.Add([]byte("no newline\x16=== NAME  TestA\n\x16--- PASS: TestA/b (1.00s)\n\x16\x16x\n"))
	f.Add([]byte("\x16=== ATTR  TestA k v w\n\x16=== ARTIFACTS TestA /x y\n\x16--- SKIP: \n\x16=== \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got []byte
		p := NewParser(func(e Event) {
			if e.Kind == Output {
				got = append(got, e.Text...)
			}
			if e.Kind == 0 {
				t.Error("an event of no kind")
			}
		})
		p.Write(text)
		p.Close()
		if !bytes.Contains(text, []byte{marker}) && !bytes.Equal(text, got) {
			t.Errorf("parsed %q from %q", got, text)
		}
		if bytes.IndexByte(got, marker) >= 0 {
			t.Errorf("a marker is left in %q", got)
		}
	})
}
