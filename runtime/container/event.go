package container

import (
	"context"
	"fmt"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Topics that are subscribed to. containerd does not say when a subscription has begun, so the engine sends itself an event on a
// topic of its own, again and again until it arrives: whatever happens after that is seen.
const (
	topicExit  = "/tasks/exit"
	topicOOM   = "/tasks/oom"
	topicBegun = "/phonehost/subscribed"

	begunEvery = 50 * time.Millisecond
	retryPause = 100 * time.Millisecond
)

// Events reports what happens to the phones' containers until the context ends, when the channel is closed. The first event is Back,
// or Lost if containerd cannot be reached. After Lost nothing comes until Back; after each Back the caller observes everything anew,
// since what happened before it is gone. One goroutine serves the channel and ends after the context; a caller that does not read
// holds up nobody but itself.
func (e *Engine) Events(ctx context.Context) <-chan Event {
	s := &subscription{engine: e, out: make(chan Event, 64), mark: uuid.NewString()}
	go s.run(ctx)
	return s.out
}

// subscription is one caller's stream of events. Its goroutine owns it.
type subscription struct {
	engine *Engine
	out    chan Event
	mark   string
	lost   bool // Lost was sent, and no Back since
}

func (s *subscription) run(ctx context.Context) {
	defer close(s.out)
	for {
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if !s.lost {
			s.engine.log.Warn("containerd is lost", "error", err)
			s.lost = true
			s.send(ctx, Event{Kind: Lost, Time: time.Now()})
		}
		// The pause is for a containerd that answers and still ends the stream.
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryPause):
		}
		// This call waits until the connection stands again.
		if _, err := s.engine.client.IsServing(ctx); err != nil && ctx.Err() == nil {
			s.engine.log.Debug("containerd does not serve", "error", err)
		}
	}
}

// follow delivers events until the stream ends.
func (s *subscription) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	filters := make([]string, 0, 3)
	for _, topic := range []string{topicExit, topicOOM, topicBegun} {
		filters = append(filters, fmt.Sprintf("namespace==%q,topic==%q", s.engine.config.Namespace, topic))
	}
	stream, ended := s.engine.client.EventService().Subscribe(ctx, filters...)
	repeat := time.NewTicker(begunEvery)
	defer repeat.Stop()
	begun := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return unavailable(err)
		case <-repeat.C:
			if begun {
				repeat.Stop()
				continue
			}
			if err := s.engine.client.EventService().Publish(ctx, topicBegun, wrapperspb.String(s.mark)); err != nil {
				return fmt.Errorf("publish an event: %w", unavailable(err))
			}
		case envelope := <-stream:
			if envelope.Topic == topicBegun {
				if !begun && s.isMark(envelope) {
					begun, s.lost = true, false
					s.send(ctx, Event{Kind: Back, Time: time.Now()})
				}
				continue
			}
			if event, ok := translate(envelope); ok {
				s.send(ctx, event)
			}
		}
	}
}

func (s *subscription) send(ctx context.Context, event Event) {
	select {
	case s.out <- event:
	case <-ctx.Done():
	}
}

func (s *subscription) isMark(envelope *events.Envelope) bool {
	v, err := typeurl.UnmarshalAny(envelope.Event)
	if err != nil {
		return false
	}
	mark, ok := v.(*wrapperspb.StringValue)
	return ok && mark.GetValue() == s.mark
}

// translate turns containerd's event into the engine's; ok is false for what is not about a phone's first process.
func translate(envelope *events.Envelope) (event Event, ok bool) {
	v, err := typeurl.UnmarshalAny(envelope.Event)
	if err != nil {
		return Event{}, false
	}
	switch v := v.(type) {
	case *apievents.TaskExit:
		if v.GetID() != v.GetContainerID() { // an exec
			return Event{}, false
		}
		event = Event{Kind: Exited, ExitCode: v.GetExitStatus(), Time: v.GetExitedAt().AsTime()}
		event.PhoneID, event.Role, ok = phoneOf(v.GetContainerID())
	case *apievents.TaskOOM:
		event = Event{Kind: OOM, Time: envelope.Timestamp}
		event.PhoneID, event.Role, ok = phoneOf(v.GetContainerID())
	}
	return event, ok
}
