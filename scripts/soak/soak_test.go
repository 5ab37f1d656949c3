package soak

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The variables of the soak, which `make soak` sets.
const (
	roundsEnv = "PHONEHOST_SOAK_ROUNDS" // how many rounds, or "all": until every arrival was met; without it there is no soak
	seedEnv   = "PHONEHOST_SOAK_SEED"   // what chance begins with; without it, the time
	onlyEnv   = "PHONEHOST_SOAK_ONLY"   // faults to be played instead, separated by ";"
)

// TestSoak plays as many rounds as asked for, in an order that the seed gives: the agent is killed at every point of every operation, at
// random times and twice in a row, everything that can fail does, and everything else is killed (schedule).
func TestSoak(t *testing.T) {
	if only := os.Getenv(onlyEnv); only != "" {
		repeat(t, strings.Split(only, ";"))
		return
	}
	asked := os.Getenv(roundsEnv)
	rounds, err := strconv.Atoi(asked)
	if asked != "all" && (err != nil || rounds < 1) {
		t.Skipf("%s says not how many rounds", roundsEnv)
	}
	seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("SEED=%d", seed)
	s := &soak{t: t, l: newLab(t), tally: map[string]int{}}
	began := time.Now()
	s.learn()
	t.Logf("every operation was done once: %v", time.Since(began).Round(time.Second))
	began = time.Now()
	plan := newSchedule(s.able, s.l.known, rand.New(rand.NewPCG(seed, seed)))
	t.Logf("%d arrivals at %d points of %d operations, %d failures", len(plan.kills), plan.points, len(s.able), len(plan.fails))
	if asked == "all" {
		rounds = plan.all()
	}
	for n := range rounds {
		s.round(n, plan.next(n))
	}
	s.summary(rounds, time.Since(began), plan)
}

// repeat plays faults as an earlier run printed them.
func repeat(t *testing.T, faults []string) {
	l := newLab(t)
	for _, text := range faults {
		f, err := parseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		reached, err := l.play(t.Context(), f)
		t.Logf("%s: reached %v: %v", f, reached, err)
		if err != nil {
			t.Fail()
			l.abandon()
		}
	}
}

type soak struct {
	t     *testing.T
	l     *lab
	able  []action
	tally map[string]int // rounds by kind, by action, and by point that was reached

	rounds, reached int
	failures        []string
}

// learn does every operation once, undisturbed.
func (s *soak) learn() {
	for _, a := range actions() {
		able, err := s.l.learn(s.t.Context(), a)
		if err != nil {
			s.t.Fatalf("%s: %v", a.name, err)
		}
		if !able {
			s.t.Logf("%s: this agent cannot do it", a.name)
			continue
		}
		s.able = append(s.able, a)
	}
}

// round plays a fault. After a failure it goes on with another phone.
func (s *soak) round(n int, f fault) {
	began := time.Now()
	reached, err := s.l.play(s.t.Context(), f)
	s.rounds++
	s.tally["kind "+f.kind]++
	s.tally["action "+f.action.name]++
	if reached {
		s.reached++
		s.tally["kind "+f.kind+", reached"]++
		if f.kind == "kill" || f.kind == "fail" {
			s.tally["point "+f.words[0]+", "+f.kind]++
		}
	}
	s.t.Logf("%d: %s: reached %v, %v", n, f, reached, time.Since(began).Round(time.Millisecond))
	if err != nil {
		s.failures = append(s.failures, fmt.Sprintf("%s=%q: %v", onlyEnv, f, err))
		s.t.Errorf("round %d: %s: %v\nthe end of the agent's log:\n%s", n, f, err, s.l.h.tail())
		s.l.abandon()
	}
}

// summary prints what was done.
func (s *soak) summary(asked int, took time.Duration, plan *schedule) {
	s.t.Logf("%d rounds of %d in %v, %d points reached, %d failures", s.rounds, asked, took.Round(time.Second), s.reached, len(s.failures))
	if n := len(plan.kills); n > 0 {
		s.t.Logf("%d arrivals are left out: more rounds reach all", n)
	}
	for _, what := range slices.Sorted(maps.Keys(s.tally)) {
		s.t.Logf("%5d %s", s.tally[what], what)
	}
	for _, part := range slices.Sorted(maps.Keys(s.l.spent)) {
		s.t.Logf("%6.0f s %s", s.l.spent[part].Seconds(), part)
	}
	for _, f := range s.failures {
		s.t.Logf("failed: %s", f)
	}
}
