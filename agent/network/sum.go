package network

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

const (
	// sumTime is how long denials that are alike are summed up for the journal, after the first.
	sumTime = time.Minute
	// maxSums is how many kinds of denials of one phone are told apart; the rest is one more.
	maxSums = 64
	// sumRate and sumBurst bound the events of all phones, or the journal would hold nothing else: it keeps 100 000.
	sumRate  = 5
	sumBurst = 200
	// reasonOther is the reason of denials that were not told apart.
	reasonOther = "OTHER"
)

// alike is what denials that are one event have in common, beside the phone.
type alike struct {
	direction policy.Direction
	protocol  uint8
	peer      netip.Addr
	port      uint16
	name      string
	reason    string
}

// other is what is left when a phone has too many kinds.
var other = alike{reason: reasonOther}

// sum is denials that are alike.
type sum struct {
	// denial holds what came since it was last told; its Count is 0 when nothing did.
	denial netpolicy.Denial
	// told is when it was last told; zero for never.
	told time.Time
}

// due is when the sum may be told; zero when there is nothing to tell.
func (s *sum) due() time.Time {
	if s.denial.Count == 0 {
		return time.Time{}
	}
	if s.told.IsZero() {
		return s.denial.First
	}
	return s.told.Add(sumTime)
}

// sums adds denials up for the journal: what is new is told at once, what goes on once in sumTime. Nothing is lost but what lies between
// the kinds of a phone that has too many. It is used by one goroutine.
type sums struct {
	phones map[string]map[alike]*sum
	limit  *rate.Limiter
}

func newSums() *sums {
	return &sums{phones: map[string]map[alike]*sum{}, limit: rate.NewLimiter(sumRate, sumBurst)}
}

// add takes a denial in.
func (s *sums) add(d netpolicy.Denial) {
	of := s.phones[d.Phone]
	if of == nil {
		of = map[alike]*sum{}
		s.phones[d.Phone] = of
	}
	k := alike{d.Direction, d.Protocol, d.Peer, d.Port, d.Name, d.Reason}
	if d.Reason == reasonOther || of[k] == nil && len(of) >= maxSums {
		k = other
		d = netpolicy.Denial{Phone: d.Phone, Reason: reasonOther, Rule: -4, Count: d.Count, Bytes: d.Bytes, First: d.First, Last: d.Last}
	}
	have := of[k]
	if have == nil {
		have = &sum{}
		of[k] = have
	}
	if have.denial.Count > 0 {
		d.First, d.Count, d.Bytes = have.denial.First, d.Count+have.denial.Count, d.Bytes+have.denial.Bytes
	}
	have.denial = d
}

// take returns what is to be told now, the longest untold first, and forgets what has not gone on. With all set it does not wait for
// anything to be due.
func (s *sums) take(now time.Time, all bool) []netpolicy.Denial {
	var due []*sum
	for id, of := range s.phones {
		for k, have := range of {
			switch at := have.due(); {
			case at.IsZero() && now.Sub(have.told) >= sumTime:
				delete(of, k)
			case !at.IsZero() && (all || !at.After(now)):
				due = append(due, have)
			}
		}
		if len(of) == 0 {
			delete(s.phones, id)
		}
	}
	slices.SortFunc(due, func(a, b *sum) int {
		return cmp.Or(a.due().Compare(b.due()), cmp.Compare(a.denial.Phone, b.denial.Phone), a.denial.Peer.Compare(b.denial.Peer), cmp.Compare(a.denial.Port, b.denial.Port))
	})
	var told []netpolicy.Denial
	for _, have := range due {
		if !s.limit.AllowN(now, 1) {
			break
		}
		told = append(told, have.denial)
		have.denial.Count, have.denial.Bytes, have.told = 0, 0, now
	}
	return told
}

// next is when take should be called again; zero when there is nothing left.
func (s *sums) next(now time.Time) time.Time {
	var next time.Time
	for _, of := range s.phones {
		for _, have := range of {
			at := have.due()
			if at.IsZero() {
				at = have.told.Add(sumTime) // to be forgotten
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
