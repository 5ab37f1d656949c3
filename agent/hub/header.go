package hub

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// The first bytes on a client's stream are one request, and the hub's answer is one response: the length of a JSON object in
// bytes (4 bytes, big endian), then the object. Members that a side does not know are ignored.
const (
	maxRequest  = 1 << 10
	maxResponse = 4 << 20
)

// request says what a client wants of a stream: the list of agents, or a stream of an agent's session of a kind.
type request struct {
	List  bool        `json:"list,omitempty"`
	Agent string      `json:"agent,omitempty"`
	Kind  tunnel.Kind `json:"kind,omitempty"`
}

// response answers it. Without Error, a request for an agent goes on with that agent's bytes.
type response struct {
	Error  string  `json:"error,omitempty"`
	Code   string  `json:"code,omitempty"` // class of Error: see failure
	Agents []Agent `json:"agents,omitempty"`
}

// Agent is an agent that is connected to a hub.
type Agent struct {
	// Name is the NAME in its certificate.
	Name string `json:"name"`
	// Sessions are its sessions, control before media.
	Sessions []Session `json:"sessions"`
}

// Session is a session of an agent.
type Session struct {
	// Kind is what it is for.
	Kind tunnel.Kind `json:"kind"`
	// Remote is the address that it came from.
	Remote string `json:"remote"`
	// Since is when it was established, by the hub's clock.
	Since time.Time `json:"since"`
}

// readRequest reads and checks a request; errors for bytes that are none are of class errdefs.ErrInvalidArgument.
func readRequest(r io.Reader) (request, error) {
	var req request
	if err := readFrame(r, maxRequest, &req); err != nil {
		return request{}, err
	}
	switch {
	case req.List:
		return request{List: true}, nil
	case !access.ValidName(req.Agent):
		return request{}, fmt.Errorf("agent %q: name must match [a-z0-9]([a-z0-9.-]{0,62}): %w", req.Agent, errdefs.ErrInvalidArgument)
	case req.Kind != tunnel.Control && req.Kind != tunnel.Media:
		return request{}, fmt.Errorf("kind %q: want control or media: %w", req.Kind, errdefs.ErrInvalidArgument)
	}
	return req, nil
}

// codes names the classes of errors that cross the wire.
var codes = map[string]error{
	"not_found":        errdefs.ErrNotFound,
	"invalid_argument": errdefs.ErrInvalidArgument,
	"unavailable":      errdefs.ErrUnavailable,
}

// failure words an error as a response.
func failure(err error) response {
	for code, class := range codes {
		if errors.Is(err, class) {
			return response{Error: err.Error(), Code: code}
		}
	}
	return response{Error: err.Error()}
}

// err returns the error that a response carries, in its class.
func (r response) err() error {
	if r.Error == "" {
		return nil
	}
	class, ok := codes[r.Code]
	if !ok {
		class = errdefs.ErrUnknown
	}
	return &remoteError{text: r.Error, class: class}
}

// remoteError is an error that the hub sent; its text is complete.
type remoteError struct {
	text  string
	class error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.class }

func writeRequest(w io.Writer, req request) error { return writeFrame(w, maxRequest, req) }

func writeResponse(w io.Writer, resp response) error { return writeFrame(w, maxResponse, resp) }

func readFrame(r io.Reader, limit uint32, into any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > limit {
		return fmt.Errorf("frame of %d bytes, the limit is %d: %w", size, limit, errdefs.ErrInvalidArgument)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("frame of %d bytes: %w", size, io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("frame: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func writeFrame(w io.Writer, limit int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > limit {
		return fmt.Errorf("frame of %d bytes, the limit is %d: %w", len(body), limit, errdefs.ErrOutOfRange)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}
