package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestGreeting has events come before the greeting and between the two lines of the beginning.
func TestGreeting(t *testing.T) {
	ours, theirs := pair(t)
	e := newEmulator(t, theirs)
	var asked command
	var saying sync.WaitGroup
	saying.Go(func() {
		e.say(`{"event": "EARLY"}`, greeting, `{"event": "RESUME"}`)
		asked = e.hear()
		e.say(`{"event": "BETWEEN"}`)
		e.answer(asked, "{}")
	})
	var came events
	c, err := New(t.Context(), ours, came.take)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	saying.Wait()
	if asked.Execute != "qmp_capabilities" || asked.Arguments != nil {
		t.Errorf("the client began with %q %s", asked.Execute, asked.Arguments)
	}
	if diff := cmp.Diff([]string{"EARLY ", "RESUME ", "BETWEEN "}, came.names()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestNoGreeting has QEMU be silent, end or talk nonsense before the client has begun: the connection is closed.
func TestNoGreeting(t *testing.T) {
	why := errors.New("enough waited")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	for name, test := range map[string]struct {
		ctx  context.Context
		say  func(*emulator)
		is   func(error) bool
		text string
	}{
		"silence":        {ended, func(*emulator) {}, func(err error) bool { return errors.Is(err, why) }, "greeting"},
		"the end":        {t.Context(), func(e *emulator) { e.conn.Close() }, errdefs.IsUnavailable, "greeting: QEMU closed the connection"},
		"no JSON":        {t.Context(), func(e *emulator) { e.say("qemu: could not open disk") }, errdefs.IsUnavailable, "could not open disk"},
		"no object":      {t.Context(), func(e *emulator) { e.say(`["QMP"]`) }, errdefs.IsUnavailable, "QMP"},
		"half a line":    {t.Context(), func(e *emulator) { io.WriteString(e.conn, greeting[:20]); e.conn.Close() }, errdefs.IsUnavailable, "QMP"},
		"the end amidst": {t.Context(), func(e *emulator) { e.say(greeting); e.hear(); e.conn.Close() }, errdefs.IsUnavailable, "qmp_capabilities"},
		"refused capabilities": {t.Context(), func(e *emulator) {
			e.say(greeting)
			e.hear()
			e.say(`{"id": 1, "error": {"class": "GenericError", "desc": "no"}}`)
		}, isError, "refused qmp_capabilities: no"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			e := newEmulator(t, theirs)
			var saying sync.WaitGroup
			saying.Go(func() { test.say(e) })
			c, err := New(test.ctx, ours, ignore)
			if !test.is(err) || !strings.Contains(fmt.Sprint(err), test.text) {
				t.Errorf("client %v, error %v, want one about %q", c, err, test.text)
			}
			saying.Wait()
			if _, err := ours.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection is left open: %v", err)
			}
		})
	}
}

func isError(err error) bool {
	var refused *Error
	return errors.As(err, &refused)
}

func TestCall(t *testing.T) {
	c, e := connect(t, ignore)
	type status struct {
		Running bool   `json:"running"`
		Status  string `json:"status"`
	}
	for name, test := range map[string]struct {
		args   any
		answer string // after the id
		want   string // of the arguments
		result status
		err    string
	}{
		"no arguments":        {nil, `"return": {"running": true, "status": "running"}`, "", status{true, "running"}, ""},
		"arguments":           {map[string]any{"path": "/a \"b\"\n", "n": int64(1) << 40}, `"return": {}`, `{"n":1099511627776,"path":"/a \"b\"\n"}`, status{}, ""},
		"a field too many":    {nil, `"return": {"status": "paused", "singlestep": false}`, "", status{false, "paused"}, ""},
		"a result of another": {nil, `"return": [1]`, "", status{}, "decode what QEMU returned for query-status"},
		"no result":           {nil, `"x": 1`, "", status{}, "decode what QEMU returned for query-status"},
		"refused":             {nil, `"error": {"class": "CommandNotFound", "desc": "The command query-status has not been found"}`, "", status{}, "QEMU refused query-status: The command query-status has not been found"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked command
			var answering sync.WaitGroup
			answering.Go(func() {
				asked = e.hear()
				e.say(fmt.Sprintf(`{"id": %d, %s}`, asked.ID, test.answer))
			})
			var got status
			err := c.Call(t.Context(), "query-status", test.args, &got)
			answering.Wait()
			if asked.Execute != "query-status" || string(asked.Arguments) != test.want {
				t.Errorf("asked %s %s, want %s", asked.Execute, asked.Arguments, test.want)
			}
			if got != test.result || (err == nil) != (test.err == "") || !strings.Contains(fmt.Sprint(err), test.err) && err != nil {
				t.Errorf("got %+v, %v, want %+v, %q", got, err, test.result, test.err)
			}
			var refused *Error
			if errors.As(err, &refused) {
				if diff := cmp.Diff(&Error{"query-status", "CommandNotFound", "The command query-status has not been found"}, refused); diff != "" {
					t.Errorf("error (-want +got):\n%s", diff)
				}
			} else if name == "refused" {
				t.Errorf("an error of type %T", err)
			}
		})
	}
	if err := c.Call(t.Context(), "x", func() {}, nil); err == nil || !strings.Contains(err.Error(), "encode QEMU's x") {
		t.Errorf("arguments that are none: %v", err)
	}
}

// TestEventsBetweenAnswers has events of known and unknown kinds come around an answer: they are told in order, and keep no answer up.
func TestEventsBetweenAnswers(t *testing.T) {
	var came events
	c, e := connect(t, came.take)
	var answering sync.WaitGroup
	answering.Go(func() {
		asked := e.hear()
		e.say(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "VSERPORT_CHANGE", "data": {"open": true, "id": "control"}}`,
			`{"event": "OF_A_LATER_QEMU", "data": [1, {"a": null}], "more": 7}`,
			`{"return": {}, "id": 99999}`, // answers nobody
			`{"neither": "answer nor event"}`)
		e.answer(asked, `"yes"`)
		e.say(`{"event": "SHUTDOWN", "data": {"guest": false}}`)
		asked = e.hear()
		e.answer(asked, `"again"`)
	})
	for _, want := range []string{"yes", "again"} {
		var got string
		if err := c.Call(t.Context(), "x", nil, &got); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	answering.Wait()
	want := []string{`VSERPORT_CHANGE {"open": true, "id": "control"}`, `OF_A_LATER_QEMU [1, {"a": null}]`, `SHUTDOWN {"guest": false}`}
	if diff := cmp.Diff(want, came.names()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestConcurrentCalls has many commands wait at once, whose answers come in another order.
func TestConcurrentCalls(t *testing.T) {
	c, e := connect(t, ignore)
	const calls = 100
	var all sync.WaitGroup
	for i := range calls {
		all.Go(func() {
			var got int
			if err := c.Call(t.Context(), "x", i, &got); err != nil || got != i {
				t.Errorf("call %d got %d, %v", i, got, err)
			}
		})
	}
	asked := map[uint64]command{}
	var order []uint64
	for range calls {
		one := e.hear()
		if _, twice := asked[one.ID]; twice {
			t.Errorf("two commands have the id %d", one.ID)
		}
		asked[one.ID] = one
		order = append(order, one.ID)
	}
	for i := range order {
		one := asked[order[len(order)-1-i]]
		e.answer(one, string(one.Arguments))
	}
	all.Wait()
}

// TestConnectionEnds has QEMU go, or say what is no QMP, while commands wait.
func TestConnectionEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*Client, *emulator)
		text string
	}{
		"by QEMU":               {func(_ *Client, e *emulator) { e.conn.Close() }, "QEMU closed the connection"},
		"by Close":              {func(c *Client, _ *emulator) { c.Close() }, "closed"},
		"by nonsense":           {func(_ *Client, e *emulator) { e.say("Segmentation fault") }, "Segmentation fault"},
		"by half JSON":          {func(_ *Client, e *emulator) { e.say(`{"return": {`) }, "decode QEMU's line"},
		"by an id that is none": {func(_ *Client, e *emulator) { e.say(`{"return": {}, "id": "x"}`) }, "decode QEMU's line"},
		"by a line without end": {func(_ *Client, e *emulator) {
			for range maxLine/(1<<20) + 1 {
				if _, err := io.WriteString(e.conn, strings.Repeat(" ", 1<<20)); err != nil {
					return // the client has seen enough
				}
			}
		}, "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			c, e := connect(t, ignore)
			var calls sync.WaitGroup
			for range 3 {
				calls.Go(func() {
					if err := c.Call(t.Context(), "wait", nil, nil); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), test.text) {
						t.Errorf("got %v, want ErrUnavailable and %q", err, test.text)
					}
				})
			}
			for range 3 {
				e.hear()
			}
			test.end(c, e)
			calls.Wait()
			<-c.Done()
			if err := c.Call(t.Context(), "later", nil, nil); !errdefs.IsUnavailable(err) {
				t.Errorf("a command after the end: %v", err)
			}
			if _, err := c.conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection is left open: %v", err)
			}
		})
	}
}

// TestAnswerBeforeTheEnd has QEMU answer and go at once, as it does for quit: the answer counts.
func TestAnswerBeforeTheEnd(t *testing.T) {
	for range 200 {
		c, e := connect(t, ignore)
		var answering sync.WaitGroup
		answering.Go(func() {
			e.answer(e.hear(), "{}")
			e.conn.Close()
		})
		if err := c.Call(t.Context(), "quit", nil, nil); err != nil {
			t.Fatal(err)
		}
		answering.Wait()
	}
}

// TestContextEnds gives a command up: its late answer is nobody's, and the next command gets its own.
func TestContextEnds(t *testing.T) {
	c, e := connect(t, ignore)
	why := errors.New("enough waited")
	ctx, cancel := context.WithCancelCause(t.Context())
	var asked command
	var hearing sync.WaitGroup
	hearing.Go(func() {
		asked = e.hear()
		cancel(why)
	})
	var got string
	if err := c.Call(ctx, "slow", nil, &got); !errors.Is(err, why) || !strings.Contains(err.Error(), "slow") {
		t.Errorf("got %v, want the context's cause", err)
	}
	hearing.Wait()
	hearing.Go(func() {
		next := e.hear()
		e.answer(asked, `"late"`)
		e.answer(next, `"mine"`)
	})
	var next string
	if err := c.Call(t.Context(), "fast", nil, &next); err != nil || next != "mine" || got != "" {
		t.Errorf("the next command got %q, %v, the one that was given up %q", next, err, got)
	}
	hearing.Wait()
	if err := c.Call(ctx, "ended before", nil, nil); !errors.Is(err, why) {
		t.Errorf("a command whose context had ended: %v", err)
	}
	hearing.Go(func() {
		asked := e.hear()
		e.answer(asked, fmt.Sprintf("%q", asked.Execute))
	})
	if err := c.Call(t.Context(), "after", nil, &next); err != nil || next != "after" {
		t.Errorf("the command after one whose context had ended: %q, %v", next, err)
	}
	hearing.Wait()
}

// TestContextEndsAmidCommands ends the contexts of commands while they are written. Whatever it ends, it must not end the commands that
// come after them.
func TestContextEndsAmidCommands(t *testing.T) {
	c, e := connect(t, ignore)
	var answering sync.WaitGroup
	answering.Go(func() {
		for {
			line, err := e.lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var asked command
			if err := json.Unmarshal(line, &asked); err != nil {
				t.Errorf("the client's line %q: %v", line, err)
				return
			}
			if _, err := fmt.Fprintf(e.conn, `{"return": {}, "id": %d}`+"\n", asked.ID); err != nil {
				return // the client has closed
			}
		}
	})
	why := errors.New("enough")
	for i := range 2000 {
		ctx, cancel := context.WithCancelCause(t.Context())
		go cancel(why)
		if err := c.Call(ctx, "given up", nil, nil); err != nil && !errors.Is(err, why) {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	c.Close()
	answering.Wait()
}

// TestCommandThatQEMUDoesNotRead fills the connection: the command ends with its context, and the connection with it, of which QEMU has
// half a line.
func TestCommandThatQEMUDoesNotRead(t *testing.T) {
	c, e := connect(t, ignore)
	why := errors.New("enough")
	ctx, giveUp := context.WithCancelCause(t.Context())
	var long sync.WaitGroup
	long.Go(func() {
		if err := c.Call(ctx, "long", strings.Repeat("x", 8<<20), nil); !errors.Is(err, why) {
			t.Errorf("got %v, want the context's cause", err)
		}
	})
	if _, err := e.lines.ReadByte(); err != nil { // it is being written
		t.Fatal(err)
	}
	sooner, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, why)
	defer cancel()
	if err := c.Call(sooner, "behind it", nil, nil); !errors.Is(err, why) {
		t.Errorf("a command behind the long one: %v, want its context's cause", err)
	}
	giveUp(why)
	long.Wait()
	<-c.Done()
	if err := c.Call(t.Context(), "next", nil, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("the next command: %v, want ErrUnavailable", err)
	}
}

// TestLongLines has a command and an answer be longer than any buffer.
func TestLongLines(t *testing.T) {
	c, e := connect(t, ignore)
	want := strings.Repeat("0123456789", 1<<18)
	var answering sync.WaitGroup
	answering.Go(func() {
		asked := e.hear()
		e.answer(asked, string(asked.Arguments))
	})
	var got string
	if err := c.Call(t.Context(), "echo", want, &got); err != nil || got != want {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(want), err)
	}
	answering.Wait()
}

func TestSendFile(t *testing.T) {
	c, e := connect(t, ignore)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	var line, rights [4096]byte
	var n int
	var answering sync.WaitGroup
	answering.Go(func() {
		var rightsLen int
		var err error
		if n, rightsLen, _, _, err = e.conn.ReadMsgUnix(line[:], rights[:]); err != nil {
			t.Error(err)
			return
		}
		var asked command
		if err := json.Unmarshal(line[:n], &asked); err != nil {
			t.Error(err)
		}
		if asked.Execute != "getfd" || string(asked.Arguments) != `{"fdname":"memory"}` {
			t.Errorf("asked %s %s", asked.Execute, asked.Arguments)
		}
		if _, err := received(rights[:rightsLen]).WriteString("through QEMU"); err != nil {
			t.Error(err)
		}
		e.answer(asked, "{}")
	})
	if err := c.SendFile(t.Context(), "memory", write); err != nil {
		t.Fatal(err)
	}
	answering.Wait()
	got := make([]byte, 100)
	if n, err := read.Read(got); err != nil || string(got[:n]) != "through QEMU" {
		t.Errorf("through the file came %q, %v", got[:n], err)
	}
	if _, err := write.WriteString("x"); err != nil {
		t.Errorf("the file is not the caller's any more: %v", err)
	}
}

// received returns the file that a message brought.
func received(rights []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "received")
}

func TestClose(t *testing.T) {
	c, e := connect(t, ignore)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-c.Done():
	default:
		t.Error("Close returned before the reader had ended")
	}
	if _, err := e.lines.ReadByte(); err != io.EOF {
		t.Errorf("QEMU's end: %v, want io.EOF", err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a second Close: %v", err)
	}
}
