package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	protocol = "phonehost-control 2"
	hello    = protocol + " hello "
	ready    = protocol + " ready "
	start    = protocol + " start "
	started  = protocol + " started "
	// helloInterval is how long the host waits for an answer before it repeats itself.
	helloInterval = time.Second
)

// pad is what the host's repeated lines come behind: line ends for the rest of a record that the guest may still wait for.
var pad = strings.Repeat("\n", recordHeader+maxRecord)

// greet carries out the host's side of the handshake. The end of ctx closes w.
func greet(ctx context.Context, w *wire) (Guest, error) {
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer stop()
	guest, err := meet(w, rand.Text())
	if err == nil && !stop() {
		err = ctx.Err() // w is being closed
	}
	switch {
	case err == nil:
		return guest, nil
	case ctx.Err() != nil:
		return Guest{}, fmt.Errorf("the guest did not answer on port %s (%v): %w", Port, err, context.Cause(ctx))
	default:
		return Guest{}, fmt.Errorf("speak to the guest on port %s: %v: %w", Port, err, errdefs.ErrUnavailable)
	}
}

// meet speaks the host's lines until the guest has said started, and returns what it said of itself. An answer that cannot be
// decoded is asked for again.
func meet(w *wire, nonce string) (guest Guest, err error) {
	say := make(chan speech)
	var speaking sync.WaitGroup
	defer speaking.Wait()
	defer close(say)
	speaking.Go(func() { speak(w, say) })
	helloLine, startLine := "\n"+hello+nonce+"\n", "\n"+start+nonce+"\n"
	say <- speech{helloLine, helloLine}
	var bad error
	for greeted := false; ; {
		line, _, err := w.line(false)
		if err != nil && bad != nil {
			return Guest{}, fmt.Errorf("%w, after an answer that cannot be decoded: %v", err, bad)
		}
		if err != nil {
			return Guest{}, err
		}
		if text, ok := strings.CutPrefix(line, ready+nonce+" "); ok {
			var said Guest
			if bad = json.Unmarshal([]byte(text), &said); bad != nil {
				continue
			}
			guest = said // a guest that began anew says it anew
			if !greeted {
				greeted = true
				say <- speech{startLine, helloLine + startLine}
			}
		} else if line == started+nonce && greeted {
			return guest, nil
		}
	}
}

// speech is what the host says, and says again while it hears nothing.
type speech struct{ once, again string }

// speak says what comes, until say is closed.
func speak(w *wire, say <-chan speech) {
	var now speech
	again := time.NewTicker(helloInterval)
	defer again.Stop()
	for {
		select {
		case next, ok := <-say:
			if !ok {
				return
			}
			now = next
			w.say(now.once)
			again.Reset(helloInterval)
		case <-again.C:
			w.say(pad + now.again)
		}
	}
}

// answer carries out the guest's side of the handshake, until the host's first record lies before w.
func answer(w *wire, guest Guest) error {
	text, err := guest.encode()
	if err != nil {
		return err
	}
	host, met := "", false // the nonce of the last hello, and whether its start came
	for {
		line, record, err := w.line(met)
		if err != nil {
			return fmt.Errorf("wait for the host on port %s: %w", Port, err)
		}
		if record {
			return nil
		}
		if nonce, ok := strings.CutPrefix(line, hello); ok && nonce != "" {
			host, met = nonce, met && nonce == host
			w.say("\n" + ready + nonce + " " + text + "\n")
		} else if line == start+host && host != "" {
			met = true
			w.say("\n" + started + host + "\n")
		}
	}
}

// encode returns the guest as JSON that fits into a line. Problems for which there is no room are counted.
func (g Guest) encode() (string, error) {
	const room = maxLine - 256 // for the words around it and the nonce
	text, err := json.Marshal(g)
	if err != nil {
		return "", fmt.Errorf("encode the answer: %w", err)
	}
	if len(text) > room {
		all := g.Problems
		first := sort.Search(len(all), func(n int) bool { // the first number of problems that does not fit
			g.Problems = append(all[:n:n], fmt.Sprintf("and %d more", len(all)-n))
			text, err = json.Marshal(g)
			return err != nil || len(text) > room
		})
		keep := max(first-1, 0)
		g.Problems = append(all[:keep:keep], fmt.Sprintf("and %d more", len(all)-keep))
		text, err = json.Marshal(g)
	}
	if err == nil && len(text) > room {
		err = fmt.Errorf("%d bytes, at most %d fit: %w", len(text), room, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return "", fmt.Errorf("encode the answer: %w", err)
	}
	return string(text), nil
}
