package feed

import (
	"cmp"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

const (
	// SumTime is how long reports that are alike are summed up for the journal, after the first.
	SumTime = time.Minute
	// MaxKinds is how many kinds of reports of one phone are told apart; the rest is one more.
	MaxKinds = 64
	// sumRate and SumBurst bound the events of all phones, per second and at once, or the journal would hold nothing else: it keeps 100 000.
	sumRate  = 5
	SumBurst = 200
)

// Summing says how reports of type R are summed up. K is what those of one phone that are one event have in common.
type Summing[R any, K comparable] struct {
	// Kind returns whose a report is, and its kind.
	Kind func(R) (phone string, kind K)
	// First is when what it reports began.
	First func(R) time.Time
	// Other returns a report as it is told when it is not told apart from others: Kind returns the same kind for all of them.
	Other func(R) R
	// Add returns two reports of one kind as one; next is the later.
	Add func(have, next R) R
	// Compare orders reports of one phone that are told at the same time.
	Compare func(a, b R) int
}

// sum is reports that are alike.
type sum[R any] struct {
	phone string
	// report holds what came since it was last told, if anything did.
	report R
	some   bool
	// told is when it was last told; zero for never.
	told time.Time
}

// Sums adds reports up: what is new is told at once, what goes on once in SumTime. Nothing is lost but what lies between the kinds of a phone
// that has too many. It is used by one goroutine.
type Sums[R any, K comparable] struct {
	by     Summing[R, K]
	phones map[string]map[K]*sum[R]
	limit  *rate.Limiter
}

// NewSums returns empty sums.
func NewSums[R any, K comparable](by Summing[R, K]) *Sums[R, K] {
	return &Sums[R, K]{by: by, phones: map[string]map[K]*sum[R]{}, limit: rate.NewLimiter(sumRate, SumBurst)}
}

// Add takes a report in.
func (s *Sums[R, K]) Add(r R) {
	phone, k := s.by.Kind(r)
	of := s.phones[phone]
	if of == nil {
		of = map[K]*sum[R]{}
		s.phones[phone] = of
	}
	if of[k] == nil && len(of) >= MaxKinds {
		r = s.by.Other(r)
		_, k = s.by.Kind(r)
	}
	have := of[k]
	if have == nil {
		have = &sum[R]{phone: phone}
		of[k] = have
	}
	if have.some {
		r = s.by.Add(have.report, r)
	}
	have.report, have.some = r, true
}

// due is when a sum may be told; zero when there is nothing to tell.
func (s *Sums[R, K]) due(have *sum[R]) time.Time {
	switch {
	case !have.some:
		return time.Time{}
	case have.told.IsZero():
		return s.by.First(have.report)
	}
	return have.told.Add(SumTime)
}

// Take returns what is to be told now, the longest untold first, and forgets what has not gone on. With all set it does not wait for
// anything to be due.
func (s *Sums[R, K]) Take(now time.Time, all bool) []R {
	var due []*sum[R]
	for phone, of := range s.phones {
		for k, have := range of {
			switch at := s.due(have); {
			case !have.some && now.Sub(have.told) >= SumTime:
				delete(of, k)
			case have.some && (all || !at.After(now)):
				due = append(due, have)
			}
		}
		if len(of) == 0 {
			delete(s.phones, phone)
		}
	}
	slices.SortFunc(due, func(a, b *sum[R]) int {
		return cmp.Or(s.due(a).Compare(s.due(b)), cmp.Compare(a.phone, b.phone), s.by.Compare(a.report, b.report))
	})
	var told []R
	for _, have := range due {
		if !s.limit.AllowN(now, 1) {
			break
		}
		told = append(told, have.report)
		have.some, have.told = false, now
	}
	return told
}

// Next is when Take should be called again; zero when there is nothing left.
func (s *Sums[R, K]) Next(now time.Time) time.Time {
	var next time.Time
	for _, of := range s.phones {
		for _, have := range of {
			at := s.due(have)
			if !have.some {
				at = have.told.Add(SumTime) // to be forgotten
			}
			if next.IsZero() || at.Before(next) {
				next = at
			}
		}
	}
	if !next.IsZero() && !next.After(now) {
		return now.Add(time.Second / sumRate) // for want of room
	}
	return next
}
