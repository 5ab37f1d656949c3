package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got, err := parse([]byte("goos: linux\nBenchmarkCPU/motion-2 \t 8\t 4.5 cpu_ms/frame\t 1.24 ratio\nBenchmarkStill-16   2   0 frames\nPASS\n"))
	want := map[string]map[string]float64{"CPU/motion": {"cpu_ms/frame": 4.5, "ratio": 1.24}, "Still": {"frames": 0}}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := parse([]byte("BenchmarkX-2 1 much ms\n")); err == nil {
		t.Error("a value that is no number was read")
	}
}

func TestFormat(t *testing.T) {
	r := row{"X", "x : y", "ms", "y_ms", "ratio", 1.3, "ms"}
	line, err := r.format(map[string]float64{"ms": 10, "y_ms": 5, "ratio": 2})
	if err != nil || !strings.Contains(line, "10 ms\t5 ms\t2\t≤ 1.3\tmissed") {
		t.Errorf("got %q, %v", line, err)
	}
	if line, err = r.format(map[string]float64{"ms": 5, "y_ms": 5, "ratio": 1}); err != nil || !strings.HasSuffix(line, "\tmet") {
		t.Errorf("got %q, %v", line, err)
	}
	if line, err = (row{"X", "x", "ms", "y_ms", "", 6, "ms"}).format(map[string]float64{"ms": 5, "y_ms": 4}); err != nil || !strings.Contains(line, "5 ms\t4 ms\t-\t≤ 6\tmet") {
		t.Errorf("a peer that is only shown: %q, %v", line, err)
	}
	least := row{"X", "x : y", "ms", "y_ms", "ratio", atLeast(0.92), "ms"}
	for ratio, want := range map[float64]string{0.92: "≥ 0.92\tmet", 0.91: "≥ 0.92\tmissed"} {
		if line, err = least.format(map[string]float64{"ms": 5, "y_ms": 5, "ratio": ratio}); err != nil || !strings.HasSuffix(line, want) {
			t.Errorf("a ratio of %g: %q, %v; want %q", ratio, line, err, want)
		}
	}
	if _, err = r.format(map[string]float64{"ms": 10}); err == nil {
		t.Error("a metric that is missing was formatted")
	}
}

func TestChoose(t *testing.T) {
	if got, err := choose(suites(), ""); err != nil || len(got) != len(suites()) {
		t.Errorf("nothing said: %d suites, %v; want all", len(got), err)
	}
	got, err := choose(suites(), "Storm|Reset")
	if err != nil || len(got) != 2 {
		t.Errorf("two named: %v, %v", got, err)
	}
	if _, err := choose(suites(), "Nothing"); err == nil || !strings.Contains(err.Error(), "BenchmarkStorm") {
		t.Errorf("a name that is none: %v, want what there is", err)
	}
	if _, err := choose(suites(), "("); err == nil {
		t.Error("what is no regular expression was taken")
	}
}

// TestWhere: a suite says in which machine it runs, and there is such a machine.
func TestWhere(t *testing.T) {
	machines := 0
	for _, s := range suites() {
		if s.where() == "" {
			continue
		}
		if err := s.in.Check(); err != nil || !strings.Contains(s.where(), s.in.String()) {
			t.Errorf("%s runs %q: %v", s.bench, s.where(), err)
		}
		machines++
	}
	if machines == 0 {
		t.Error("no suite runs in a machine")
	}
}
