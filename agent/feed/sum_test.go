package feed

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// report is what these tests sum up.
type report struct {
	phone, what string
	count       uint64
	first       time.Time
}

func newSums() *Sums[report, string] {
	return NewSums(Summing[report, string]{
		Kind:  func(r report) (string, string) { return r.phone, r.what },
		First: func(r report) time.Time { return r.first },
		Other: func(r report) report { r.what = "other"; return r },
		Add: func(have, next report) report {
			next.count, next.first = have.count+next.count, have.first
			return next
		},
		Compare: func(a, b report) int { return strings.Compare(a.what, b.what) },
	})
}

// TestSumsAreBounded has one phone meet thousands of things for ten minutes, and another one meet few.
func TestSumsAreBounded(t *testing.T) {
	s := newSums()
	now := time.Unix(1e9, 0)
	told, counted, quiet := 0, uint64(0), 0
	take := func(all bool) {
		for _, d := range s.Take(now, all) {
			told++
			counted += d.count
			if d.phone == "quiet" {
				quiet++
			}
		}
	}
	sent := uint64(0)
	for second := range 600 {
		now = now.Add(time.Second)
		for i := range 100 {
			s.Add(report{phone: "loud", what: fmt.Sprint(second, i), count: 2, first: now})
			sent += 2
		}
		if second%100 == 0 {
			s.Add(report{phone: "quiet", what: fmt.Sprint(second), count: 1, first: now})
			sent++
		}
		take(false)
		if n := len(s.phones["loud"]); n > MaxKinds+1 {
			t.Fatalf("%d kinds of one phone are kept", n)
		}
	}
	if quiet != 6 {
		t.Errorf("the quiet phone was told %d times, want 6", quiet)
	}
	if told > 800 { // 65 a minute, and what is new when others were forgotten
		t.Errorf("%d events in ten minutes", told)
	}
	now = now.Add(time.Minute)
	take(true)
	if counted != sent {
		t.Errorf("%d were told of %d", counted, sent)
	}
	now = now.Add(2 * SumTime)
	if s.Take(now, false); len(s.phones) != 0 || !s.Next(now).IsZero() {
		t.Errorf("what has long ended is kept: %v", s.phones)
	}
}

// TestManyPhonesShareTheJournal has a thousand phones meet the same: the events come at their rate, and all come.
func TestManyPhonesShareTheJournal(t *testing.T) {
	s := newSums()
	now := time.Unix(1e9, 0)
	for i := range 1000 {
		s.Add(report{phone: fmt.Sprintf("p%03d", i), what: "rule", count: 1, first: now.Add(time.Duration(i))})
	}
	told := len(s.Take(now.Add(time.Millisecond), false))
	if told != SumBurst {
		t.Errorf("%d at once, want %d", told, SumBurst)
	}
	for range 200 {
		next := s.Next(now)
		if d := next.Sub(now); d <= 0 || d > SumTime {
			t.Fatalf("next look after %v", d)
		}
		now = now.Add(time.Second)
		told += len(s.Take(now, false))
		if told == 1000 {
			return
		}
	}
	t.Errorf("%d of 1000 were told", told)
}
