package soak

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// schedule draws the faults of a soak. All that it draws from the operations have told themselves.
type schedule struct {
	rnd   *rand.Rand
	able  []action
	known map[string]*reference

	// kills and fails are those that are still to come. Every kill comes once, and one at every point before a second at any. When there
	// are no more failures they begin anew.
	kills, fails []fault
	points       int // different ones
	broken       int // rounds of the kinds of breaking
	at           state
}

// order is what one round after the other is, again and again.
var order = [...]func(*schedule) fault{
	(*schedule).kill, (*schedule).kill, (*schedule).fail, (*schedule).kill, (*schedule).breaks, (*schedule).kill, (*schedule).chance, (*schedule).kill,
}

// breaking are the kinds of faults that break the world beside the agent, as they take turns.
var breaking = [...]string{"disk", "guest", "containerd", "shim", "display"}

func newSchedule(able []action, known map[string]*reference, rnd *rand.Rand) *schedule {
	s := &schedule{rnd: rnd, able: able, known: known, at: absent}
	for _, a := range able {
		for _, at := range known[a.name].arrivals() {
			s.kills = append(s.kills, fault{action: a, kind: "kill", words: []string{at.point, strconv.Itoa(at.n)}})
		}
	}
	s.shuffle(s.kills)
	met := map[string]bool{}
	var first, later []fault
	for _, f := range s.kills {
		if met[f.words[0]] {
			later = append(later, f)
			continue
		}
		met[f.words[0]] = true
		first = append(first, f)
	}
	s.kills, s.points = append(first, later...), len(met)
	s.allFailures()
	return s
}

func (s *schedule) shuffle(all []fault) {
	s.rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
}

// allFailures fills the list of failures.
func (s *schedule) allFailures() {
	for _, a := range s.able {
		for _, words := range s.known[a.name].failures() {
			s.fails = append(s.fails, fault{action: a, kind: "fail", words: words})
		}
	}
	s.shuffle(s.fails)
}

// all is how many rounds it takes until every kill has come.
func (s *schedule) all() int {
	const kills = 5 // in order
	return (len(s.kills)*len(order) + kills - 1) / kills
}

// next draws the n-th fault.
func (s *schedule) next(n int) fault {
	f := order[n%len(order)](s)
	switch {
	case f.kind != "kill" && f.kind != "time":
		s.at = absent // the phone is deleted then
	case f.action.makes:
		s.at = copied
	default:
		s.at = f.action.to
	}
	return f
}

// ahead is how far a fault may be drawn before those that stand before it, if the phone is where its action begins.
const ahead = 24

// take takes a fault off a list.
func (s *schedule) take(list *[]fault) fault {
	l := *list
	i := max(0, slices.IndexFunc(l[:min(len(l), ahead)], func(f fault) bool { return f.action.from == s.at }))
	f := l[i]
	*list = slices.Delete(l, i, i+1)
	return f
}

// kill is a kill at a point where there was none yet; when there is no such point left, at two that chance finds.
func (s *schedule) kill() fault {
	if len(s.kills) == 0 {
		return s.twice()
	}
	return s.take(&s.kills)
}

func (s *schedule) fail() fault {
	if len(s.fails) == 0 {
		s.allFailures()
	}
	return s.take(&s.fails)
}

// breaks kills what a phone consists of, or containerd, or fills the disk.
func (s *schedule) breaks() fault {
	kind := breaking[s.broken%len(breaking)]
	s.broken++
	able := s.able
	if kind != "disk" && kind != "containerd" { // only phones that run have what is killed
		able = slices.DeleteFunc(slices.Clone(able), func(a action) bool { return a.from != running && a.to != running })
	}
	a := able[s.rnd.IntN(len(able))]
	at := s.arrival(a)
	return fault{action: a, kind: kind, words: []string{at.point, strconv.Itoa(at.n)}}
}

// chance kills the agent at a time, or twice.
func (s *schedule) chance() fault {
	if s.rnd.IntN(2) == 0 {
		return s.twice()
	}
	a := s.able[s.rnd.IntN(len(s.able))]
	after := time.Duration(s.rnd.Float64() * float64(s.known[a.name].took+50*time.Millisecond))
	return fault{action: a, kind: "time", words: []string{strconv.Itoa(int(after.Milliseconds()))}}
}

// twice kills the agent at a point, and its successor at another.
func (s *schedule) twice() fault {
	a := s.able[s.rnd.IntN(len(s.able))]
	first, second := s.arrival(a), s.arrival(a)
	return fault{action: a, kind: "kill", words: []string{first.point, strconv.Itoa(first.n), second.point, "1"}}
}

func (s *schedule) arrival(a action) arrival {
	all := s.known[a.name].arrivals()
	return all[s.rnd.IntN(len(all))]
}
