package netpolicy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/phonehost/phonehost/netpolicy/datapath"
)

// denialWindow is for how long denials are gathered before they are reported.
const denialWindow = time.Second

// watchers are those who are told what happens. A watcher of flows that does not keep up misses what it has no room for. Denials stay in the
// kernel until there is somebody to tell, who has room.
type watchers struct {
	joined  chan struct{} // has something when a watcher of denials has come
	mu      sync.Mutex
	denials map[chan []Denial]struct{}
	flows   map[chan Flow]struct{}
}

// Denials reports dropped packets, those of a second that are alike as one, until the context ends; the channel is closed then.
func (e *Engine) Denials(ctx context.Context) <-chan []Denial {
	defer func() {
		select {
		case e.watch.joined <- struct{}{}:
		default:
		}
	}()
	return subscribe(ctx, &e.watch.mu, &e.watch.denials, 16)
}

// WatchFlows reports sampled flows as they begin and as they end, until the context ends; the channel is closed then.
func (e *Engine) WatchFlows(ctx context.Context) <-chan Flow {
	return subscribe(ctx, &e.watch.mu, &e.watch.flows, 256)
}

// subscribe adds a channel to a set until the context ends.
func subscribe[T any](ctx context.Context, mu *sync.Mutex, set *map[chan T]struct{}, room int) <-chan T {
	c := make(chan T, room)
	mu.Lock()
	defer mu.Unlock()
	if *set == nil {
		*set = map[chan T]struct{}{}
	}
	(*set)[c] = struct{}{}
	context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		delete(*set, c)
		close(c)
	})
	return c
}

// publish hands a value to all of a set that have room for it, and tells whether there was one.
func publish[T any](mu *sync.Mutex, set *map[chan T]struct{}, value T) (told bool) {
	mu.Lock()
	defer mu.Unlock()
	for c := range *set {
		select {
		case c <- value:
			told = true
		default:
		}
	}
	return told
}

// readEvents passes on what the programs tell, until the context ends: flows to their watchers, and the slots of phones with new denials.
func (e *Engine) readEvents(ctx context.Context, dropped chan<- uint32) {
	for event, err := range e.data.Events(ctx) {
		switch {
		case err != nil:
			e.log.Warn("flows and denials are not reported any more", "error", err)
		case event.Kind == datapath.EventDenial:
			select {
			case dropped <- event.Slot:
			case <-ctx.Done():
			}
		default:
			if id, found := e.ids()[event.Slot]; found {
				publish(&e.watch.mu, &e.watch.flows, flow(id, event.Flow))
			}
		}
	}
}

// reportDenials reads the denials of phones that have new ones, a second after the first of them, until the context ends. Nothing is read
// while nothing is dropped.
func (e *Engine) reportDenials(ctx context.Context, dropped <-chan uint32) {
	window := time.NewTimer(denialWindow)
	window.Stop()
	defer window.Stop()
	pending := map[uint32]bool{} // what was dropped before there was an engine is read as soon as somebody is there to be told
	for slot := range e.slots() {
		pending[slot] = true
	}
	for {
		select {
		case slot := <-dropped:
			if len(pending) == 0 {
				window.Reset(denialWindow)
			}
			pending[slot] = true
		case <-e.watch.joined:
			window.Reset(0)
		case <-window.C:
			for slot := range pending {
				if e.drain(slot) {
					delete(pending, slot)
				}
			}
			if len(pending) > 0 && e.watched() {
				window.Reset(denialWindow)
			}
		case <-ctx.Done():
			return
		}
	}
}

// watched tells whether there is a watcher of denials.
func (e *Engine) watched() bool {
	e.watch.mu.Lock()
	defer e.watch.mu.Unlock()
	return len(e.watch.denials) > 0
}

// errNobody: there is no watcher that has room.
var errNobody = errors.New("nobody is there to be told")

// drain reports the denials of the phone in a slot, and tells whether that is done with.
func (e *Engine) drain(slot uint32) (done bool) {
	id := e.slots()[slot]
	err := e.data.DrainDenials(slot, func(list []datapath.Denial) error {
		told := make([]Denial, len(list))
		for i, d := range list {
			told[i] = denial(id, d)
		}
		if !publish(&e.watch.mu, &e.watch.denials, told) {
			return errNobody // they stay, and come again
		}
		return nil
	})
	if errors.Is(err, errNobody) {
		return false
	}
	if err != nil {
		e.log.Warn("denials are not reported", "slot", slot, "phone_id", id, "error", err)
	}
	return true
}

// ids returns the phones whose networks are up, by slot.
func (e *Engine) ids() map[uint32]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := make(map[uint32]string, len(e.phones)+len(e.expected))
	for id, p := range e.expected {
		ids[p.Slot] = id
	}
	for id, p := range e.phones {
		ids[p.Slot] = id
	}
	return ids
}

// slots returns all phones that the kernel knows, by slot.
func (e *Engine) slots() map[uint32]string {
	slots := e.ids()
	phones, err := e.data.Phones()
	links, linksErr := e.data.Attached()
	if err := errors.Join(err, linksErr); err != nil {
		e.log.Warn("the phones of the kernel cannot be read", "error", err)
		return slots
	}
	for id, index := range links {
		if p, found := phones[index]; found && slots[p.Slot] == "" {
			slots[p.Slot] = id
		}
	}
	return slots
}

// PhoneIn returns the phone in a slot, as the name server tells of it; empty if there is none.
func (e *Engine) PhoneIn(slot uint32) string { return e.ids()[slot] }

// denial is a denial in the engine's words.
func denial(id string, d datapath.Denial) Denial {
	return Denial{
		Phone: id, Direction: d.Direction, Protocol: d.Protocol, Peer: d.Peer, Port: d.Port, Reason: d.Reason.String(), Class: d.Class.String(),
		Rule: ruleNumber(d.Rule), Count: d.Count, Bytes: d.Bytes, First: d.First, Last: d.Last,
	}
}

// flow is a flow in the engine's words.
func flow(id string, f datapath.Flow) Flow {
	return Flow{
		Phone: id, Direction: f.Direction, Protocol: f.Protocol, Peer: f.Peer, Port: f.Port, State: f.State.String(), Rule: ruleNumber(f.Rule),
		Started: f.Started, Seen: f.Seen, Packets: f.Packets, Bytes: f.Bytes,
	}
}

// ruleNumber is a rule in the engine's words: its index, or what stands for none.
func ruleNumber(rule uint32) int {
	switch rule {
	case datapath.RuleDefault:
		return RuleDefault
	case datapath.RuleGateway:
		return RuleGateway
	case datapath.RuleForward:
		return RuleForward
	case datapath.RuleNone:
		return RuleNone
	}
	return int(rule)
}

// Flows returns the live flows of a phone. errdefs.ErrNotFound: it has no network.
func (e *Engine) Flows(_ context.Context, id string) ([]Flow, error) {
	p, err := e.phone(id)
	if err != nil {
		return nil, err
	}
	list, err := e.data.Flows(p.Slot)
	if err != nil {
		return nil, err
	}
	flows := make([]Flow, len(list))
	for i, f := range list {
		flows[i] = flow(id, f)
	}
	return flows, nil
}
