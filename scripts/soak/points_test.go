package soak

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestPoints is the part of the soak that every test run has; TestSoak does the same at all points.
func TestPoints(t *testing.T) {
	l := newLab(t)
	t.Run("killed", func(t *testing.T) { testKilled(t, l) })
	t.Run("broken", func(t *testing.T) { testBroken(t, l) })
}

// testKilled kills the agent inside the delicate part of every operation: at a point of the engines' compound work, and at a commit.
// Which points there are each operation tells itself.
func testKilled(t *testing.T, l *lab) {
	for _, a := range actions() {
		able, err := l.learn(t.Context(), a)
		if err != nil {
			t.Fatalf("%s: %v", a.name, err)
		}
		if !able {
			t.Logf("%s: this agent cannot do it", a.name)
			continue
		}
		for _, at := range sample(l.known[a.name].arrivals()) {
			f := fault{action: a, kind: "kill", words: []string{at.point, strconv.Itoa(at.n)}}
			reached, err := l.play(t.Context(), f)
			if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			t.Logf("%s: reached %v", f, reached)
		}
	}
}

// sample takes one of the points inside compound work, or of the controller's steps where there are none, and a commit.
func sample(all []arrival) (some []arrival) {
	var inside, steps, commits []arrival
	for _, at := range all {
		switch kind, _, _ := strings.Cut(at.point, "/"); kind {
		case "commit":
			commits = append(commits, at)
		case "step":
			steps = append(steps, at)
		case "call":
		default:
			inside = append(inside, at)
		}
	}
	if len(inside) == 0 {
		inside = steps
	}
	for _, list := range [][]arrival{inside, commits} {
		if len(list) > 0 {
			some = append(some, list[2*len(list)/3])
		}
	}
	return some
}

// testBroken has tools and the kernel fail, the disk fill, and everything but the agent be killed, in the middle of operations.
func testBroken(t *testing.T, l *lab) {
	for _, text := range []string{
		"power_on fail volume/truncated 1 1",
		"power_on fail volume/attach 1 1000",
		"restart fail guest/recorded 1 1",
		"power_on disk prepare/files 1",
		"reset disk commit/before 2",
		"restart containerd guest/recorded 1",
		"power_on shim step/ask_boot/before 1",
		"restart display guest/created 1",
		"power_off guest step/shutdown/before 1",
	} {
		f, err := parseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		reached, err := l.play(t.Context(), f)
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		t.Logf("%s: %v", f, time.Since(began).Round(time.Millisecond))
		if !reached {
			t.Errorf("%s: not reached: nothing was disturbed", f)
		}
	}
}
