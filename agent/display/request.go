package display

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	displayv1 "github.com/phonehost/phonehost/proto/phonehost/display/v1"
)

// maxPicture bounds a screenshot in bytes: more than any PNG of the largest screen.
const maxPicture = 64 << 20

// Input delivers events in order, all or none, and returns when the display has taken them. Errors: ErrInvalidArgument for
// events that the display refuses, ErrFailedPrecondition when the guest has no window to take them, ErrUnavailable.
func (c *Conn) Input(ctx context.Context, events ...*displayv1.InputEvent) error {
	_, err := c.ask(ctx, "deliver input", &displayv1.ClientMessage{Message: &displayv1.ClientMessage_Input{
		Input: &displayv1.Input{Events: events},
	}})
	return err
}

// Screenshot returns the last committed frame as a PNG file. It returns ErrFailedPrecondition when the guest has drawn
// nothing yet.
func (c *Conn) Screenshot(ctx context.Context) ([]byte, error) {
	m, err := c.ask(ctx, "take screenshot", &displayv1.ClientMessage{Message: &displayv1.ClientMessage_TakeScreenshot{
		TakeScreenshot: &displayv1.TakeScreenshot{},
	}})
	if err != nil {
		return nil, err
	}
	if m.GetScreenshot() == nil {
		return nil, unexpected("take screenshot", m)
	}
	return m.GetScreenshot().GetData(), nil
}

// GetState asks for the display's state.
func (c *Conn) GetState(ctx context.Context) (*displayv1.State, error) {
	m, err := c.ask(ctx, "get display state", &displayv1.ClientMessage{Message: &displayv1.ClientMessage_GetState{
		GetState: &displayv1.GetState{},
	}})
	if err != nil {
		return nil, err
	}
	if m.GetState() == nil {
		return nil, unexpected("get display state", m)
	}
	return m.GetState(), nil
}

// ask sends a request and waits for its answer, at most for the connection's request time-out. step names it in errors.
func (c *Conn) ask(ctx context.Context, step string, m *displayv1.ClientMessage) (*displayv1.ServerMessage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout,
		fmt.Errorf("the display did not answer within %s: %w", c.timeout, errdefs.ErrUnavailable))
	defer cancel()
	request, wait, err := c.begin(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", step, err)
	}
	defer c.forget(request)
	select {
	case answer := <-wait.answer:
		if e := answer.GetError(); e != nil {
			return nil, fmt.Errorf("%s: %w", step, refusal(e))
		}
		return answer, nil
	case <-c.done:
		return nil, fmt.Errorf("%s: %w", step, c.Err())
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", step, context.Cause(ctx))
	}
}

// begin numbers a request and sends it.
func (c *Conn) begin(m *displayv1.ClientMessage) (uint64, *call, error) {
	wait := &call{answer: make(chan *displayv1.ServerMessage, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	m.Request = c.requests
	if err := c.sendLocked(m); err != nil {
		return 0, nil, err
	}
	c.pending[m.Request] = wait
	return m.Request, wait, nil
}

// forget drops a request; an answer that comes later is ignored.
func (c *Conn) forget(request uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, request)
}

// answered hands an answer to who waits for it. The parts of a picture are gathered first.
func (c *Conn) answered(m *displayv1.ServerMessage) error {
	c.mu.Lock()
	wait := c.pending[m.GetRequest()]
	c.mu.Unlock()
	if wait == nil {
		return nil
	}
	if part := m.GetScreenshot(); part != nil {
		if len(wait.picture)+len(part.GetData()) > maxPicture {
			return fmt.Errorf("screenshot of more than %d bytes", maxPicture)
		}
		wait.picture = append(wait.picture, part.GetData()...)
		if !part.GetLast() {
			return nil
		}
		part.Data = wait.picture
	}
	select {
	case wait.answer <- m:
		return nil
	default:
		return fmt.Errorf("request %d was answered twice", m.GetRequest())
	}
}

// refusal turns a display's error into one of ours.
func refusal(e *displayv1.Error) error {
	var class error = errdefs.ErrInternal
	switch e.GetCode() {
	case displayv1.ErrorCode_ERROR_CODE_INVALID_ARGUMENT:
		class = errdefs.ErrInvalidArgument
	case displayv1.ErrorCode_ERROR_CODE_FAILED_PRECONDITION:
		class = errdefs.ErrFailedPrecondition
	case displayv1.ErrorCode_ERROR_CODE_UNAVAILABLE:
		class = errdefs.ErrUnavailable
	}
	message := e.GetMessage()
	if message == "" {
		message = "refused without a reason"
	}
	return &refusalError{message: message, class: class}
}

// refusalError is what a display said, with the class that it gave; the class is not said again.
type refusalError struct {
	message string
	class   error
}

// Error returns what the display said.
func (e *refusalError) Error() string { return e.message }

// Unwrap returns the class.
func (e *refusalError) Unwrap() error { return e.class }

// unexpected is the error for an answer of the wrong kind.
func unexpected(step string, m *displayv1.ServerMessage) error {
	return fmt.Errorf("%s: the display answered with %T: %w", step, m.GetMessage(), errdefs.ErrInternal)
}
