package tunnel

import (
	"math/rand/v2"
	"time"
)

const (
	backoffFirst = 250 * time.Millisecond
	backoffLast  = 30 * time.Second
	// backoffGrace is how long a session must have lived to count as a success: two agents of one name that push each other
	// out, or a peer that accepts and then hangs up, must not be met with fast attempts.
	backoffGrace = 30 * time.Second
)

// delays spaces the attempts of one dialer with full jitter: each delay is drawn evenly from zero to a ceiling that doubles
// from backoffFirst to backoffLast, so that a fleet that lost its control plane does not come back in step.
type delays struct {
	ceiling time.Duration // of the next delay
}

// next returns how long to wait before the next attempt.
func (b *delays) next() time.Duration {
	if b.ceiling == 0 {
		b.ceiling = backoffFirst
	}
	delay := rand.N(b.ceiling) + 1
	b.ceiling = min(2*b.ceiling, backoffLast)
	return delay
}

// lived tells how long a session lived; a long life starts the count anew.
func (b *delays) lived(d time.Duration) {
	if d >= backoffGrace {
		b.ceiling = 0
	}
}
