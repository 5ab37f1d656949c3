package soak

import (
	"strconv"
	"strings"
	"testing"
)

// TestPoints kills the agent inside the delicate parts of every operation: at some points of the engines' compound work, and at a commit.
// Which points there are each operation tells itself. The soak (TestSoak) does the same at all points.
func TestPoints(t *testing.T) {
	l := newLab(t, nil)
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

// sample takes two of the points inside compound work, or of the controller's steps where there are none, and a commit.
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
	for i, list := range [][]arrival{inside, inside, commits} {
		if len(list) > 0 {
			some = append(some, list[(2*i+1)*len(list)/4%len(list)])
		}
	}
	return some
}
