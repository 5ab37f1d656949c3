package resolver

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What a phone may ask.
const (
	questionsPerSecond = 100
	questionsAtOnce    = 500
	// waitingPerPhone bounds the questions of a phone that are being answered, waitingInAll those of all.
	waitingPerPhone = 64
	waitingInAll    = 2048
	// connectionsPerPhone bounds the TCP connections from one address, connectionsInAll those from all.
	connectionsPerPhone = 16
	connectionsInAll    = 1024
	// maxRates bounds how many addresses have a rate of their own; there are two for each phone. Beyond them, addresses share one.
	maxRates = 8192
)

// rates are how often each address may ask. They may be used by several goroutines.
type rates struct {
	mu     sync.Mutex
	all    map[netip.Addr]*rate.Limiter
	others *rate.Limiter
}

func newRates() *rates {
	return &rates{all: map[netip.Addr]*rate.Limiter{}, others: newRate()}
}

func newRate() *rate.Limiter { return rate.NewLimiter(questionsPerSecond, questionsAtOnce) }

// allow tells whether an address may ask now.
func (r *rates) allow(a netip.Addr, now time.Time) bool {
	r.mu.Lock()
	limiter := r.all[a]
	if limiter == nil {
		if limiter = r.others; len(r.all) < maxRates {
			limiter = newRate()
			r.all[a] = limiter
		}
	}
	r.mu.Unlock()
	return limiter.AllowN(now, 1)
}

// forget lets go of addresses that may ask as much as any that never asked.
func (r *rates) forget(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for a, limiter := range r.all {
		if limiter.TokensAt(now) >= questionsAtOnce {
			delete(r.all, a)
		}
	}
}

// places are a bounded number of things that go on at once, in all and for each key. The zero value has none: see newPlaces.
type places[K comparable] struct {
	each, all int

	mu    sync.Mutex
	taken map[K]int
	sum   int
}

func newPlaces[K comparable](each, all int) *places[K] {
	return &places[K]{each: each, all: all, taken: map[K]int{}}
}

// take takes a place, which leave gives back; it is false when there is none.
func (p *places[K]) take(key K) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sum >= p.all || p.taken[key] >= p.each {
		return false
	}
	p.sum++
	p.taken[key]++
	return true
}

func (p *places[K]) leave(key K) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sum--
	if p.taken[key]--; p.taken[key] == 0 {
		delete(p.taken, key)
	}
}
