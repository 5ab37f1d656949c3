package resolver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// Paths of the control socket, which speaks HTTP: a GET of the status, and a POST that takes the denials, or waits until there are some.
const (
	statusPath  = "/status"
	denialsPath = "/denials"
	awaitPath   = "/denials/await"
)

// controlServer serves the control socket; the zero value serves none.
type controlServer struct {
	http *http.Server
	done chan struct{}
}

// listenControl serves the control socket of the configuration. What a former server left there is removed.
func (s *Server) listenControl() (*controlServer, error) {
	if s.cfg.Control == "" {
		return &controlServer{}, nil
	}
	if err := os.Remove(s.cfg.Control); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", s.cfg.Control)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, func(w http.ResponseWriter, _ *http.Request) { s.tell(w, s.Status()) })
	mux.HandleFunc("POST "+denialsPath, func(w http.ResponseWriter, _ *http.Request) { s.tell(w, s.TakeDenials()) })
	mux.HandleFunc("POST "+awaitPath, func(w http.ResponseWriter, r *http.Request) {
		if s.denials.await(r.Context()) && http.NewResponseController(w).SetWriteDeadline(time.Now().Add(controlTime)) == nil {
			s.tell(w, s.TakeDenials())
		}
	})
	c := &controlServer{http: &http.Server{Handler: mux, ReadHeaderTimeout: controlTime, WriteTimeout: controlTime, MaxHeaderBytes: 4096}, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		_ = c.http.Serve(l) // returns when it is closed
	}()
	return c, nil
}

const controlTime = 5 * time.Second

func (s *Server) tell(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("answer on the control socket", "error", err)
	}
}

// Close ends the service and waits for it.
func (c *controlServer) Close() error {
	if c.http == nil {
		return nil
	}
	err := c.http.Close()
	<-c.done
	return err
}

// Control asks a name server by its control socket.
type Control struct {
	// Socket is the path of the socket.
	Socket string
}

// Status asks for the status. errdefs.ErrUnavailable: nobody answers.
func (c Control) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, http.MethodGet, statusPath, &s)
	return s, err
}

// TakeDenials returns what was refused since the last call, by anybody: each denial is told once. An answer that is lost on its way is lost.
func (c Control) TakeDenials(ctx context.Context) ([]Denial, error) {
	var list []Denial
	err := c.call(ctx, http.MethodPost, denialsPath, &list)
	return list, err
}

// AwaitDenials is TakeDenials that waits until there are some, or the context ends.
func (c Control) AwaitDenials(ctx context.Context) ([]Denial, error) {
	var list []Denial
	err := c.ask(ctx, http.MethodPost, awaitPath, &list)
	return list, err
}

// maxControl bounds an answer: denialsInAll names.
const maxControl = 32 << 20

func (c Control) call(ctx context.Context, method, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, controlTime)
	defer cancel()
	return c.ask(ctx, method, path, into)
}

// ask is call without a time.
func (c Control) ask(ctx context.Context, method, path string, into any) error {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", c.Socket)
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://name-server"+path, nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("ask the name server at %s: %w: %w", c.Socket, err, errdefs.ErrUnavailable)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the name server at %s: %s: %w", c.Socket, response.Status, errdefs.ErrInternal)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxControl)).Decode(into); err != nil {
		return fmt.Errorf("ask the name server at %s: %w: %w", c.Socket, err, errdefs.ErrUnavailable)
	}
	return nil
}
