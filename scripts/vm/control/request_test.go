package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestErrorsKeepTheirClass has a guest fail in every way: the host gets the text and the class.
func TestErrorsKeepTheirClass(t *testing.T) {
	unknown := func(err error) bool { return errors.Is(err, errdefs.ErrUnknown) }
	_, notFound := exec.LookPath("no-such-program-anywhere")
	_, noFile := os.Open("/no/such/file")
	for name, test := range map[string]struct {
		err error
		is  func(error) bool
	}{
		"not found":           {errdefs.ErrNotFound, errdefs.IsNotFound},
		"permission denied":   {errdefs.ErrPermissionDenied, errdefs.IsPermissionDenied},
		"already exists":      {errdefs.ErrAlreadyExists, errdefs.IsAlreadyExists},
		"invalid argument":    {errdefs.ErrInvalidArgument, errdefs.IsInvalidArgument},
		"failed precondition": {errdefs.ErrFailedPrecondition, errdefs.IsFailedPrecondition},
		"unavailable":         {errdefs.ErrUnavailable, errdefs.IsUnavailable},
		"not implemented":     {errdefs.ErrNotImplemented, errdefs.IsNotImplemented},
		"no file":             {noFile, errdefs.IsNotFound},
		"no program":          {notFound, errdefs.IsNotFound},
		"no name":             {&net.DNSError{Err: "no such host", Name: "x"}, errdefs.IsNotFound},
		"not allowed":         {&fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES}, errdefs.IsPermissionDenied},
		"there":               {&fs.PathError{Op: "mkdir", Path: "/x", Err: syscall.EEXIST}, errdefs.IsAlreadyExists},
		"refused":             {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, errdefs.IsUnavailable},
		"no route":            {&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, errdefs.IsUnavailable},
		"anything":            {errors.New("the disk is on fire"), unknown},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, handler{unpack: func(context.Context) error { return fmt.Errorf("unpack: %w", test.err) }})
			if err := s.Unpack(t.Context()); !test.is(err) || !strings.Contains(err.Error(), "unpack: "+test.err.Error()) {
				t.Errorf("got %v (%T)", err, err)
			}
		})
	}
}

func TestPut(t *testing.T) {
	type file struct {
		Path, Content string
		Mode          fs.FileMode
		Whole         bool
	}
	came := make(chan file, 1)
	s := begin(t, handler{put: func(_ context.Context, req Request, r io.Reader) error {
		if req.Path == "/refused" {
			return errdefs.ErrPermissionDenied
		}
		data, err := io.ReadAll(r)
		came <- file{req.Path, string(data), req.Mode, err == nil}
		return err
	}})
	long := strings.Repeat("0123456789", inputWindow/4)
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		path string
		r    io.Reader
		want file
		err  error
	}{
		"empty":  {"/empty", strings.NewReader(""), file{"/empty", "", 0o640, true}, nil},
		"long":   {"/long", strings.NewReader(long), file{"/long", long, 0o640, true}, nil},
		"broken": {"/broken", io.MultiReader(strings.NewReader("half"), failing{broken}), file{"/broken", "half", 0o640, false}, broken},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.Put(t.Context(), test.path, 0o640, test.r); !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("error %v, want %v", err, test.err)
			}
			if diff := cmp.Diff(test.want, <-came); diff != "" {
				t.Errorf("file (-want +got):\n%s", diff)
			}
		})
	}
	if err := s.Put(t.Context(), "/refused", 0o640, zeros{}); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "/refused") {
		t.Errorf("a file that the guest refuses: %v", err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := s.Put(ctx, "/endless", 0o640, readerFunc(func(p []byte) (int, error) {
		cancel(why)
		return len(p), nil
	})); !errors.Is(err, why) {
		t.Errorf("a file that is given up: %v", err)
	}
	if f := <-came; f.Whole {
		t.Errorf("the guest takes a file that was given up for a whole one of %d bytes", len(f.Content))
	}
}

type readerFunc func([]byte) (int, error)

func (r readerFunc) Read(p []byte) (int, error) { return r(p) }

func TestGet(t *testing.T) {
	content := strings.Repeat("0123456789", 1<<20)
	ended := make(chan error, 1)
	s := begin(t, handler{get: func(_ context.Context, req Request, w io.Writer) error {
		if req.Path != "/file" {
			return fs.ErrNotExist
		}
		_, err := io.WriteString(w, content)
		ended <- err
		return err
	}})
	var got bytes.Buffer
	if err := s.Get(t.Context(), "/file", &got); err != nil || got.String() != content {
		t.Errorf("%d bytes of %d, %v", got.Len(), len(content), err)
	}
	<-ended
	if err := s.Get(t.Context(), "/none", &got); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "/none") {
		t.Errorf("a file that is not there: %v", err)
	}
	full := errors.New("full")
	if err := s.Get(t.Context(), "/file", writerFunc(func([]byte) (int, error) { return 0, full })); !errors.Is(err, full) {
		t.Errorf("a writer that is full: %v", err)
	}
	<-ended
}

// TestDial connects to a service that sends back what comes and says so at the end of it.
func TestDial(t *testing.T) {
	name := filepath.Join(t.TempDir(), "service")
	service, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer service.Close()
	serving.Go(func() {
		for {
			conn, err := service.Accept()
			if err != nil {
				return
			}
			io.Copy(struct{ io.Writer }{conn}, conn)
			io.WriteString(conn, " and that was all")
			conn.Close()
		}
	})
	s := begin(t, handler{dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}})
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := s.Dial(ctx, "unix", name)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // which changes nothing any more
	if got := conn.RemoteAddr(); got.Network() != "unix" || got.String() != name {
		t.Errorf("remote address %s %s", got.Network(), got)
	}
	text := strings.Repeat("0123456789", 1<<20)
	var sending sync.WaitGroup
	sending.Go(func() {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Error(err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(conn)
	sending.Wait()
	if err != nil || string(got) != text+" and that was all" {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(text), err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}

	if _, err := s.Dial(t.Context(), "unix", name+".none"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), name+".none") {
		t.Errorf("a socket that is not there: %v", err)
	}
	waiting, err := s.Dial(t.Context(), "unix", name)
	if err != nil {
		t.Fatal(err)
	}
	if err := waiting.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := waiting.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a read beyond its deadline: %v", err)
	}
	// The end of the session ends the connection, at the service too: serving would not end otherwise.
	s.Close()
	if _, err := waiting.Write([]byte("x")); err == nil {
		t.Error("a connection works after the session's end")
	}
}

// TestPower shows that the guest acts when the host has the answer, and not if it refused.
func TestPower(t *testing.T) {
	acted := make(chan string, 1)
	s := begin(t, handler{power: func(_ context.Context, action string) (func() error, error) {
		if action != Reboot {
			return nil, errdefs.ErrInvalidArgument
		}
		return func() error { acted <- action; return nil }, nil
	}})
	if err := s.Power(t.Context(), "explode"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an action that is none: %v", err)
	}
	if err := s.Power(t.Context(), Reboot); err != nil {
		t.Error(err)
	}
	if got := <-acted; got != Reboot {
		t.Errorf("the guest did %q", got)
	}
}

func TestClock(t *testing.T) {
	came := make(chan Request, 1)
	s := begin(t, handler{clock: func(_ context.Context, req Request) error { came <- req; return nil }})
	now := time.Date(2031, 2, 3, 4, 5, 6, 789, time.UTC)
	if err := s.SetClock(t.Context(), now, []byte{0, 1, 255}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Request{Op: OpClock, Time: now.UnixNano(), Seed: []byte{0, 1, 255}}, <-came); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// TestBadRequests has a stream begin with what is no request: the guest says what is wrong, and serves the next one.
func TestBadRequests(t *testing.T) {
	s := begin(t, handler{unpack: func(context.Context) error { return nil }})
	for name, test := range map[string]struct {
		line string
		is   func(error) bool
	}{
		"no JSON":          {"hello\n", errdefs.IsInvalidArgument},
		"JSON of a list":   {"[]\n", errdefs.IsInvalidArgument},
		"no known request": {`{"op": "explode"}` + "\n", errdefs.IsNotImplemented},
		"no end of line":   {strings.Repeat("x", maxRequest+2*chunk), errdefs.IsInvalidArgument},
		"nothing":          {"\n", errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := s.mux.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			var writing sync.WaitGroup
			defer writing.Wait()
			writing.Go(func() { io.WriteString(stream, test.line) })
			c := &call{stream: stream, credits: newCredits()}
			if _, err := s.finish(t.Context(), c, "bad", io.Discard, io.Discard); !test.is(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := s.Unpack(t.Context()); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

// TestBadAnswers has a guest answer with what is no answer.
func TestBadAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		bytes string
		is    func(error) bool
	}{
		"nothing":               {"", errdefs.IsUnavailable},
		"half a frame":          {"\x07\x00\x00\x00\x09{\"cod", errdefs.IsUnavailable},
		"a result without JSON": {"\x07\x00\x00\x00\x05hello", errdefs.IsUnavailable},
		"a frame of the host's": {"\x01\x00\x00\x00\x01x", errdefs.IsInvalidArgument},
		"too long a frame":      {"\x02\x7f\xff\xff\xff", errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, handler{dial: func(context.Context, string, string) (net.Conn, error) {
				one, other := net.Pipe()
				go func() {
					io.WriteString(other, test.bytes)
					other.Close()
				}()
				return one, nil
			}})
			// After a dial a stream carries the bytes of whoever was dialled.
			to, err := s.Dial(t.Context(), "tcp", "bad")
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			dialled, ok := to.(*conn)
			if !ok {
				t.Fatalf("a connection of type %T", to)
			}
			c := &call{stream: dialled.Stream, credits: newCredits()}
			if _, err := s.finish(t.Context(), c, "bad", io.Discard, io.Discard); !test.is(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestServeEnds shows that Serve waits for its requests, whoever ends the session.
func TestServeEnds(t *testing.T) {
	for name, end := range map[string]func(s session, guest io.Closer, cancel func()){
		"by the host":     func(s session, _ io.Closer, _ func()) { s.Close() },
		"by its context":  func(_ session, _ io.Closer, cancel func()) { cancel() },
		"by its own port": func(_ session, guest io.Closer, _ func()) { guest.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			running, release := make(chan struct{}), make(chan struct{})
			h := handler{unpack: func(ctx context.Context) error {
				close(running)
				<-ctx.Done()
				<-release
				return nil
			}}
			host, guest := pipe()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			served := make(chan error, 1)
			go func() { served <- Serve(ctx, guest, Guest{}, h, nil) }()
			c, err := NewClient(t.Context(), host, nil)
			if err != nil {
				t.Fatal(err)
			}
			var asking sync.WaitGroup
			asking.Go(func() {
				if err := c.Unpack(t.Context()); !errdefs.IsUnavailable(err) {
					t.Errorf("the request ended with %v", err)
				}
			})
			<-running
			end(session{Client: c}, guest, cancel)
			<-c.Done()
			select {
			case err := <-served:
				t.Errorf("Serve returned %v while a request was being carried out", err)
			default:
			}
			close(release)
			if err := <-served; (err == nil) != (name == "by the host") {
				t.Errorf("Serve returned %v", err)
			}
			asking.Wait()
			c.Close()
		})
	}
}

// FuzzRequest has any bytes come where a stream's request is.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("{\"op\":\"exec\",\"args\":[\"sh\"],\"terminal\":{\"columns\":80,\"rows\":25}}\n"))
	f.Add([]byte("{\"op\":\"put\",\"path\":\"/x\",\"mode\":420}\nbehind"))
	f.Add([]byte("{\"op\":\"clock\",\"time\":-1,\"seed\":\"AAEC\"}\n"))
	f.Add([]byte("{}"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := readRequest(bufio.NewReaderSize(bytes.NewReader(data), 16))
		if err != nil {
			if !errdefs.IsInvalidArgument(err) && !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			return
		}
		var line bytes.Buffer
		if err := writeRequest(&line, req); err != nil {
			t.Fatal(err)
		}
		again, err := readRequest(bufio.NewReader(&line))
		if diff := cmp.Diff(req, again, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("written and read again: %v\n%s", err, diff)
		}
	})
}
