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
	roundsEnv = "PHONEHOST_SOAK_ROUNDS" // how many rounds; without it there is no soak
	seedEnv   = "PHONEHOST_SOAK_SEED"   // what chance begins with; without it, the time
	onlyEnv   = "PHONEHOST_SOAK_ONLY"   // faults to be played instead, separated by ";"
)

// TestSoak kills the agent at every point of every operation, in an order that the seed gives, and then, until there were as many rounds
// as asked for, at random points and times, twice in a row, and has tools and kernel calls fail and everything else be killed.
func TestSoak(t *testing.T) {
	if only := os.Getenv(onlyEnv); only != "" {
		repeat(t, strings.Split(only, ";"))
		return
	}
	rounds, err := strconv.Atoi(os.Getenv(roundsEnv))
	if err != nil || rounds < 1 {
		t.Skipf("%s says not how many rounds", roundsEnv)
	}
	seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("SEED=%d", seed)
	s := &soak{t: t, l: newLab(t), rnd: rand.New(rand.NewPCG(seed, seed)), tally: map[string]int{}}
	all := s.everyPoint()
	t.Logf("%d arrivals at points of %d operations", len(all), len(s.able))
	for n := range rounds {
		f := s.random()
		if n%4 != 3 && len(all) > 0 { // a random one every now and then
			f, all = all[0], all[1:]
		}
		s.round(n, f)
	}
	if len(all) > 0 {
		t.Logf("%d arrivals are left out: more rounds reach all", len(all))
	}
	s.summary(rounds)
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
	rnd   *rand.Rand
	able  []action
	tally map[string]int // rounds by kind, and kills by point

	rounds, reached int
	failures        []string
}

// everyPoint learns what every operation passes and returns a kill at each of the arrivals, shuffled.
func (s *soak) everyPoint() (all []fault) {
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
		for _, at := range s.l.known[a.name].arrivals() {
			all = append(all, fault{action: a, kind: "kill", words: []string{at.point, strconv.Itoa(at.n)}})
		}
	}
	s.rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// failing are points that stand before or after what can fail in the kernel, in a tool or in containerd.
var failing = []string{"volume/truncated", "volume/attach", "guest/recorded", "guest/created", "guest/started", "display/recorded", "display/created"}

// random draws a fault.
func (s *soak) random() fault {
	a := s.able[s.rnd.IntN(len(s.able))]
	at := s.arrival(a)
	f := fault{action: a, words: []string{at.point, strconv.Itoa(at.n)}}
	switch s.rnd.IntN(12) {
	case 0, 1:
		f.kind, f.words = "time", []string{strconv.Itoa(s.rnd.IntN(900))}
	case 2, 3:
		second := s.arrival(a)
		f.kind, f.words = "kill", append(f.words, second.point, "1")
	case 4, 5:
		f.kind, f.words = "fail", []string{failing[s.rnd.IntN(len(failing))], "1", []string{"1", "2", "1000"}[s.rnd.IntN(3)]}
	case 6:
		f.kind = "containerd"
	case 7:
		f.kind = "shim"
	case 8:
		f.kind = "display"
	case 9, 10:
		f.kind = "disk"
	default:
		f.kind = "guest"
	}
	return f
}

func (s *soak) arrival(a action) arrival {
	all := s.l.known[a.name].arrivals()
	return all[s.rnd.IntN(len(all))]
}

// round plays a fault. After a failure it goes on with another phone.
func (s *soak) round(n int, f fault) {
	began := time.Now()
	reached, err := s.l.play(s.t.Context(), f)
	s.rounds++
	s.tally["kind "+f.kind]++
	if reached {
		s.reached++
		if f.kind == "kill" || f.kind == "fail" {
			s.tally["point "+f.words[0]]++
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
func (s *soak) summary(asked int) {
	s.t.Logf("%d rounds of %d, %d points reached, %d failures", s.rounds, asked, s.reached, len(s.failures))
	for _, what := range slices.Sorted(maps.Keys(s.tally)) {
		s.t.Logf("%5d %s", s.tally[what], what)
	}
	for _, f := range s.failures {
		s.t.Logf("failed: %s", f)
	}
}
