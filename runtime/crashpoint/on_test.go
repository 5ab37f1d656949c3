//go:build faults

package crashpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestPlan(t *testing.T) {
	points.dir = t.TempDir()
	t.Cleanup(func() { points.dir = "" })
	plan := func(text string) {
		if err := os.WriteFile(filepath.Join(points.dir, "plan"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Fail("a"); err != nil {
		t.Errorf("without a plan: %v", err)
	}
	plan("record * 1 1\nfail a 2 2\n")
	for i, want := range []bool{false, true, true, false} {
		if err := Fail("a"); errors.Is(err, ErrInjected) != want {
			t.Errorf("arrival %d: %v, want a failure: %v", i+1, err, want)
		}
	}
	Reached("b")
	if text, err := os.ReadFile(filepath.Join(points.dir, "reached")); err != nil || string(text) != "a fallible\na fallible\na fallible\na fallible\nb\n" {
		t.Errorf("noted %q, %v", text, err)
	}
	plan("# another\nfail a 1 1\n")
	if err := Fail("a"); err == nil {
		t.Error("another plan does not count from 1")
	}
}
