package tunnel

import (
	"net"
	"net/netip"
	"sync"

	"github.com/phonehost/phonehost/agent/access"
)

// admission counts what peers hold against the Limits.
type admission struct {
	limits Limits

	mu         sync.Mutex
	handshakes int
	bySource   map[netip.Prefix]int
	sessions   map[string]int // by Identity.String
}

func newAdmission(l Limits) *admission {
	return &admission{limits: l, bySource: map[netip.Prefix]int{}, sessions: map[string]int{}}
}

// beginHandshake counts a handshake of a source; done must be called when it is over. ok is false when it may not begin.
func (a *admission) beginHandshake(addr net.Addr) (done func(), ok bool) {
	source := sourceOf(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.handshakes >= a.limits.Handshakes || a.bySource[source] >= a.limits.HandshakesPerSource {
		return nil, false
	}
	a.handshakes++
	a.bySource[source]++
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.handshakes--
		if a.bySource[source]--; a.bySource[source] == 0 {
			delete(a.bySource, source)
		}
	}), true
}

// beginSession counts a session of an identity; done must be called when it has ended. ok is false when it may not begin.
func (a *admission) beginSession(id access.Identity) (done func(), ok bool) {
	key := id.String()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sessions[key] >= a.limits.SessionsPerIdentity {
		return nil, false
	}
	a.sessions[key]++
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.sessions[key]--; a.sessions[key] == 0 {
			delete(a.sessions, key)
		}
	}), true
}

// sourceOf returns what handshakes are counted by: an IPv4 address, or the /64 that one IPv6 customer has.
func sourceOf(addr net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{} // not IP: one source
	}
	ip := ap.Addr().Unmap()
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	prefix, err := ip.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}
