package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// TestExecRequest shows what of a command comes to the guest.
func TestExecRequest(t *testing.T) {
	asked := make(chan Request, 1)
	s := begin(t, handler{exec: func(_ context.Context, req Request, streams ExecIO) (int, error) {
		asked <- req
		if (streams.Input != nil) != req.Input {
			t.Errorf("the program has input: %v, asked for: %v", streams.Input != nil, req.Input)
		}
		return 0, nil
	}})
	var one, other bytes.Buffer
	for name, test := range map[string]struct {
		command Command
		want    Request
	}{
		"least": {Command{Args: []string{"true"}}, Request{Op: OpExec, Args: []string{"true"}, Merge: false}},
		"most": {
			Command{Args: []string{"sh", "-c", "a\nb"}, Env: []string{"A=1"}, Dir: "/dir", User: "1:2", Terminal: &Size{80, 25}, Stdin: strings.NewReader(""), Stdout: &one, Stderr: &other},
			Request{Op: OpExec, Args: []string{"sh", "-c", "a\nb"}, Env: []string{"A=1"}, Dir: "/dir", User: "1:2", Terminal: &Size{80, 25}, Input: true},
		},
		"one writer":                         {Command{Args: []string{"x"}, Stdout: &one, Stderr: &one}, Request{Op: OpExec, Args: []string{"x"}, Merge: true}},
		"writers that cannot be compared":    {Command{Args: []string{"x"}, Stdout: writerFunc(one.Write), Stderr: writerFunc(one.Write)}, Request{Op: OpExec, Args: []string{"x"}}},
		"arguments of a megabyte":            {Command{Args: []string{strings.Repeat("x", 1<<20)}}, Request{Op: OpExec, Args: []string{strings.Repeat("x", 1<<20)}}},
		"arguments that are no text of JSON": {Command{Args: []string{"\"\\\x00\t<>&\u2028ä"}}, Request{Op: OpExec, Args: []string{"\"\\\x00\t<>&\u2028ä"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if code, err := s.Exec(t.Context(), test.command); code != 0 || err != nil {
				t.Fatalf("code %d, error %v", code, err)
			}
			if diff := cmp.Diff(test.want, <-asked); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
	for name, command := range map[string]Command{"no arguments": {}, "more than a request may have": {Args: []string{strings.Repeat("x", maxRequest)}}} {
		if code, err := s.Exec(t.Context(), command); code != -1 || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: code %d, error %v, want ErrInvalidArgument", name, code, err)
		}
	}
}

// TestExecOutput has programs write much and little to both outputs, and end.
func TestExecOutput(t *testing.T) {
	s := begin(t, handler{exec: func(_ context.Context, req Request, streams ExecIO) (int, error) {
		var writing sync.WaitGroup
		for range 10 {
			writing.Go(func() { fmt.Fprint(streams.Stdout, strings.Repeat("o", 100_000)) })
			writing.Go(func() { fmt.Fprint(streams.Stderr, strings.Repeat("e", 1000)) })
			streams.Stdout.Write(nil)
		}
		writing.Wait()
		return 137, nil
	}})
	var out, stderr bytes.Buffer
	code, err := s.Exec(t.Context(), Command{Args: []string{"x"}, Stdout: &out, Stderr: &stderr})
	if code != 137 || err != nil || out.String() != strings.Repeat("o", 1_000_000) || stderr.String() != strings.Repeat("e", 10_000) {
		t.Errorf("code %d, error %v, %d and %d bytes", code, err, out.Len(), stderr.Len())
	}
	if code, err := s.Exec(t.Context(), Command{Args: []string{"x"}}); code != 137 || err != nil {
		t.Errorf("output that is discarded: code %d, error %v", code, err)
	}
	full := errors.New("full")
	if code, err := s.Exec(t.Context(), Command{Args: []string{"x"}, Stderr: writerFunc(func([]byte) (int, error) { return 0, full })}); code != -1 || !errors.Is(err, full) {
		t.Errorf("a writer that is full: code %d, error %v", code, err)
	}
}

// TestExecInput has a program read all, some and none of its input.
func TestExecInput(t *testing.T) {
	s := begin(t, handler{exec: func(_ context.Context, req Request, streams ExecIO) (int, error) {
		switch req.Args[0] {
		case "none":
			return 0, nil
		case "some":
			_, err := io.CopyN(streams.Stdout, streams.Input, 10)
			return 0, err
		}
		_, err := io.Copy(streams.Stdout, streams.Input)
		return 0, err
	}})
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		program string
		input   io.Reader
		size    int
	}{
		"empty":                      {"all", strings.NewReader(""), 0},
		"short":                      {"all", strings.NewReader("hello"), 5},
		"more than its window":       {"all", io.LimitReader(zeros{}, 5*inputWindow+1), 5*inputWindow + 1},
		"some of an endless one":     {"some", zeros{}, 10},
		"none of an endless one":     {"none", zeros{}, 0},
		"what comes before an error": {"all", io.MultiReader(strings.NewReader("hello"), failing{broken}), 5},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			code, err := s.Exec(t.Context(), Command{Args: []string{test.program}, Stdin: test.input, Stdout: &out})
			if code != 0 || err != nil || out.Len() != test.size {
				t.Errorf("code %d, error %v, %d bytes, want %d", code, err, out.Len(), test.size)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

type failing struct{ err error }

func (r failing) Read([]byte) (int, error) { return 0, r.err }

// TestExecOfManyAtOnce has inputs and outputs that do not fit into the windows come and go at once.
func TestExecOfManyAtOnce(t *testing.T) {
	s := begin(t, handler{exec: func(_ context.Context, req Request, streams ExecIO) (int, error) {
		_, err := io.Copy(streams.Stdout, streams.Input)
		return len(req.Args[0]), err
	}})
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			text := strings.Repeat(fmt.Sprint(i, " "), 1<<19)
			var out bytes.Buffer
			code, err := s.Exec(t.Context(), Command{Args: []string{strings.Repeat("x", i)}, Stdin: strings.NewReader(text), Stdout: &out})
			if code != i || err != nil || out.String() != text {
				t.Errorf("program %d: code %d, error %v, %d bytes of %d", i, code, err, out.Len(), len(text))
			}
		})
	}
	all.Wait()
}

// TestCredits has a program that does not read for a while: the host sends no more than the window, signals and sizes pass it, and all of the
// input comes in the end.
func TestCredits(t *testing.T) {
	const size = 3*inputWindow + 12345
	full, reads := make(chan struct{}), make(chan struct{})
	events := make(chan string)
	s := begin(t, handler{exec: func(_ context.Context, _ Request, streams ExecIO) (int, error) {
		in := streams.Input.(*inbox)
		in.mu.Lock()
		for len(in.input) < inputWindow {
			in.news.Wait()
		}
		in.mu.Unlock()
		close(full)
		for range 2 {
			select {
			case signal := <-streams.Signals:
				events <- signal.String()
			case size := <-streams.Resize:
				events <- fmt.Sprint(size.Columns, "x", size.Rows)
			}
		}
		<-reads
		in.mu.Lock()
		if len(in.input) != inputWindow {
			t.Errorf("%d bytes came for a program that reads none, want %d", len(in.input), inputWindow)
		}
		in.mu.Unlock()
		n, err := io.Copy(io.Discard, in)
		if n != size {
			t.Errorf("%d bytes came, want %d", n, size)
		}
		return 0, err
	}})
	signals, sizes := make(chan syscall.Signal), make(chan Size)
	counted := &counter{r: io.LimitReader(zeros{}, size)}
	var running sync.WaitGroup
	running.Go(func() {
		code, err := s.Exec(t.Context(), Command{Args: []string{"x"}, Stdin: counted, Signals: signals, Resize: sizes})
		if code != 0 || err != nil {
			t.Errorf("code %d, error %v", code, err)
		}
	})
	<-full
	signals <- syscall.SIGUSR1
	if got := <-events; got != syscall.SIGUSR1.String() {
		t.Errorf("the program got %s", got)
	}
	sizes <- Size{132, 50}
	if got := <-events; got != "132x50" {
		t.Errorf("the program got %s", got)
	}
	// What was sent comes before the signals; one more piece may have been read for the time when there is credit.
	if n := counted.count(); n > inputWindow+chunk {
		t.Errorf("%d bytes were read for a window of %d", n, inputWindow)
	}
	close(reads)
	running.Wait()
}

type counter struct {
	r  io.Reader
	mu sync.Mutex
	n  int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
	return n, err
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// TestHostBeyondItsCredit sends more than it may: the program's input breaks off and its request is given up.
func TestHostBeyondItsCredit(t *testing.T) {
	given := make(chan error, 1)
	s := begin(t, handler{exec: func(ctx context.Context, _ Request, streams ExecIO) (int, error) {
		<-ctx.Done()
		_, err := io.Copy(io.Discard, streams.Input)
		given <- err
		return 0, nil
	}})
	call, err := s.Client.begin(t.Context(), Request{Op: OpExec, Args: []string{"x"}, Input: true})
	if err != nil {
		t.Fatal(err)
	}
	defer call.end()
	for range inputWindow/chunk + 1 {
		if err := call.frames.write(frameInput, make([]byte, chunk)); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-given; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the program's input ended with %v", err)
	}
}

// TestEventsEnd closes the channels of a running program's events, which is not its end.
func TestEventsEnd(t *testing.T) {
	s := begin(t, handler{exec: func(_ context.Context, _ Request, streams ExecIO) (int, error) {
		_, err := io.Copy(io.Discard, streams.Input)
		return 5, err
	}})
	signals, sizes := make(chan syscall.Signal), make(chan Size)
	input, more := io.Pipe()
	go func() {
		close(signals)
		close(sizes)
		fmt.Fprint(more, "hello")
		more.Close()
	}()
	if code, err := s.Exec(t.Context(), Command{Args: []string{"x"}, Stdin: input, Signals: signals, Resize: sizes}); code != 5 || err != nil {
		t.Errorf("code %d, error %v", code, err)
	}
}

// TestGivenUp ends a request's context, and the session, and the host: the guest's program is told each time.
func TestGivenUp(t *testing.T) {
	running, told := make(chan struct{}), make(chan error, 1)
	h := handler{exec: func(ctx context.Context, _ Request, streams ExecIO) (int, error) {
		running <- struct{}{}
		<-ctx.Done()
		_, err := streams.Input.Read(make([]byte, 1))
		told <- err
		return 0, ctx.Err()
	}}
	why := errors.New("enough")
	for name, test := range map[string]struct {
		end func(s session, guest, host io.Closer, cancel context.CancelCauseFunc)
		is  func(error) bool
	}{
		"by its context": {func(_ session, _, _ io.Closer, cancel context.CancelCauseFunc) { cancel(why) }, func(err error) bool { return errors.Is(err, why) }},
		"by Close":       {func(s session, _, _ io.Closer, _ context.CancelCauseFunc) { s.Close() }, errdefs.IsUnavailable},
		"by the host":    {func(_ session, host, _ io.Closer, _ context.CancelCauseFunc) { host.Close() }, errdefs.IsUnavailable},
		"by the guest":   {func(_ session, _, guest io.Closer, _ context.CancelCauseFunc) { guest.Close() }, errdefs.IsUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := pipe()
			s := beginOn(t, h, host, guest)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			input, more := io.Pipe()
			defer more.Close()
			ended := make(chan error, 1)
			go func() {
				_, err := s.Exec(ctx, Command{Args: []string{"x"}, Stdin: input})
				ended <- err
			}()
			<-running
			test.end(s, host, guest, cancel)
			if err := <-ended; !test.is(err) {
				t.Errorf("the host got %v", err)
			}
			if err := <-told; !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the program's input ended with %v", err)
			}
		})
	}
	t.Run("before it began", func(t *testing.T) {
		s := begin(t, h)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		if code, err := s.Exec(ctx, Command{Args: []string{"x"}}); code != -1 || !errors.Is(err, why) {
			t.Errorf("code %d, error %v", code, err)
		}
	})
}
