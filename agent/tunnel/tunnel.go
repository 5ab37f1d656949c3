// Package tunnel carries gRPC connections between an agent and whoever uses it: mutual TLS 1.3 over TCP, yamux in it, one
// yamux stream for each gRPC connection.
//
// A TCP connection with its yamux session is a Session. Its Kind, which ALPN names together with the version, says what it
// is for: control (commands, input) or media (video, files), so that bulk never holds up a touch. Sessions begin at a Door,
// where the agent listens, or at a DialOut, where the agent dials; both deliver the streams that the other side opens into
// one Streams, which a grpc.Server serves. Dial and Listener are what both are made of, and what the other side uses.
//
// The side that accepted the TCP connection opens the first stream of a session. It carries notices, small frames that
// either side may write at any time: welcome or refused as the first word of the accepting side, then drain before a session
// is closed on purpose (yamux's GoAway reaches nobody who waits in Accept). All other streams are opened by the client or
// the control plane and are gRPC connections; a stream in the other direction ends the session.
//
// The package knows no RPC and decides no role: agent/access does. Goroutines: yamux runs three for each session, Session
// two; whoever made a Session ends them with Close. Listener.Serve and DialOut.Run return only when every goroutine that
// they started has ended.
package tunnel

import (
	"time"

	"github.com/phonehost/phonehost/agent/access"
)

// Kind says what a session is for.
type Kind string

const (
	// Control carries commands and input.
	Control Kind = "control"
	// Media carries video and files.
	Media Kind = "media"
	// Hub runs between a client and a hub, which joins its streams to those of agents' sessions.
	Hub Kind = "hub"
)

// protocol returns the kind's name in ALPN. Its number grows with an incompatible change; two versions may be offered then.
func (k Kind) protocol() string { return "phonehost-" + string(k) + "/1" }

// window returns the bytes that a peer may send ahead on one stream. A stream moves at most one window in a round trip:
// 256 KiB at 50 ms are 42 Mbit/s, 4 MiB are 670 Mbit/s.
func (k Kind) window() uint32 {
	if k == Control {
		return 256 << 10
	}
	return 4 << 20
}

// notSent returns the bytes that may wait in the kernel before writes block (TCP_NOTSENT_LOWAT): what lies there can no
// longer be overtaken by anything.
func (k Kind) notSent() int {
	if k == Control {
		return 16 << 10
	}
	return 32 << 10
}

// ChunkSize is the most that one yamux frame carries, in bytes: with its header of 12 bytes it fills one TLS record.
// Small frames are what keeps a command from waiting behind a big message of another stream.
const ChunkSize = 16<<10 - headerSize

// Timing holds the times of a session. The zero value means the defaults.
type Timing struct {
	// KeepAlive is the time between probes of the peer; 0 means 5 s.
	KeepAlive time.Duration
	// Timeout is how long a probe's answer and a write may take before the session is closed; 0 means 5 s. A peer that has
	// gone is found after KeepAlive + Timeout at the latest.
	Timeout time.Duration
	// OpenTimeout is how long a peer may take to accept a stream before the session is closed; 0 means 10 s.
	OpenTimeout time.Duration
	// Handshake is how long TCP, TLS and the welcome may take together; 0 means 10 s.
	Handshake time.Duration
	// Drain is how long a session's streams may go on after a drain notice; 0 means 10 s.
	Drain time.Duration
}

// WithDefaults returns the times with the defaults in place of zeros.
func (t Timing) WithDefaults() Timing {
	or := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	or(&t.KeepAlive, 5*time.Second)
	or(&t.Timeout, 5*time.Second)
	or(&t.OpenTimeout, 10*time.Second)
	or(&t.Handshake, 10*time.Second)
	or(&t.Drain, 10*time.Second)
	return t
}

// Limits bounds what peers can take. The zero value means the defaults.
type Limits struct {
	// Handshakes is the most handshakes at a time; 0 means 128.
	Handshakes int
	// HandshakesPerSource is the most handshakes at a time from one IPv4 address or IPv6 /64; 0 means 16.
	HandshakesPerSource int
	// SessionsPerIdentity is the most sessions of one identity at a time; 0 means 8.
	SessionsPerIdentity int
	// StreamsPerSession is the most streams that a peer may have open in one session; 0 means 64. One more is closed at
	// once; a peer that has twice as many loses its session.
	StreamsPerSession int
}

// WithDefaults returns the limits with the defaults in place of zeros.
func (l Limits) WithDefaults() Limits {
	or := func(n *int, value int) {
		if *n == 0 {
			*n = value
		}
	}
	or(&l.Handshakes, 128)
	or(&l.HandshakesPerSource, 16)
	or(&l.SessionsPerIdentity, 8)
	or(&l.StreamsPerSession, 64)
	return l
}

// SessionInfo describes a session.
type SessionInfo struct {
	// Door is the way in: "listen", or "dial:ADDR" with the address that was dialed.
	Door string
	// Kind is what the session is for.
	Kind Kind
	// Identity is who is at the other end.
	Identity access.Identity
	// Remote is the other end's address.
	Remote string
	// Since is when the session was established.
	Since time.Time
	// PeerExpires is when the peer's certificate ends.
	PeerExpires time.Time
}

// Observer is told what happens at the doors; any of its functions may be nil. They are called from many goroutines, from
// the path of the connections, and must not block.
type Observer struct {
	// SessionOpened is called when a session is established.
	SessionOpened func(SessionInfo)
	// SessionClosed is called when a session has ended. The cause is an error of class errdefs.ErrUnavailable unless this
	// side closed it on purpose.
	SessionClosed func(s SessionInfo, cause error)
	// Refused is called for every peer that was turned away, more often than the log tells, which is rate-limited.
	Refused func(Refusal)
	// DialFailed is called when a dial-out did not become a session; the next attempt follows after retry.
	DialFailed func(addr string, kind Kind, err error, retry time.Duration)
}

func (o Observer) opened(s SessionInfo) {
	if o.SessionOpened != nil {
		o.SessionOpened(s)
	}
}

func (o Observer) closed(s SessionInfo, cause error) {
	if o.SessionClosed != nil {
		o.SessionClosed(s, cause)
	}
}

func (o Observer) refused(r Refusal) {
	if o.Refused != nil {
		o.Refused(r)
	}
}

func (o Observer) dialFailed(addr string, kind Kind, err error, retry time.Duration) {
	if o.DialFailed != nil {
		o.DialFailed(addr, kind, err, retry)
	}
}
