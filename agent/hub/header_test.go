package hub

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// frame puts the length before a body.
func frame(body string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
}

func TestReadRequest(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, data string
		want       request
		err        error
	}{
		{"control", frame(`{"agent":"shelf-7","kind":"control"}`), request{Agent: "shelf-7", Kind: tunnel.Control}, nil},
		{"media", frame(`{"agent":"shelf-7","kind":"media"}`), request{Agent: "shelf-7", Kind: tunnel.Media}, nil},
		{"list", frame(`{"list":true}`), request{List: true}, nil},
		{"a member of a later version", frame(`{"list":true,"later":[1]}`), request{List: true}, nil},
		{"nothing asked", frame(`{}`), request{}, errdefs.ErrInvalidArgument},
		{"no kind", frame(`{"agent":"shelf-7"}`), request{}, errdefs.ErrInvalidArgument},
		{"kind hub", frame(`{"agent":"shelf-7","kind":"hub"}`), request{}, errdefs.ErrInvalidArgument},
		{"bad name", frame(`{"agent":"Shelf 7","kind":"control"}`), request{}, errdefs.ErrInvalidArgument},
		{"no JSON", frame(`hello`), request{}, errdefs.ErrInvalidArgument},
		{"JSON of another form", frame(`[1,2]`), request{}, errdefs.ErrInvalidArgument},
		{"too long", frame(strings.Repeat(" ", maxRequest+1)), request{}, errdefs.ErrInvalidArgument},
		{"gRPC", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", request{}, errdefs.ErrInvalidArgument},
		{"half a frame", frame(`{"list":true}`)[:8], request{}, io.ErrUnexpectedEOF},
		{"nothing", "", request{}, io.EOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := readRequest(strings.NewReader(tt.data))
			if !errors.Is(err, tt.err) || got != tt.want {
				t.Errorf("readRequest = %+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte(frame(`{"agent":"shelf-7","kind":"control"}`)))
	f.Add([]byte(frame(`{"list":true}`)))
	f.Add([]byte(frame(`{"agent":null}`)))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := readRequest(bytes.NewReader(data))
		if err != nil {
			return
		}
		if !req.List && (!access.ValidName(req.Agent) || req.Kind != tunnel.Control && req.Kind != tunnel.Media) {
			t.Fatalf("%q was read as %+v", data, req)
		}
		var out bytes.Buffer
		if err := writeRequest(&out, req); err != nil {
			t.Fatal(err)
		}
		if again, err := readRequest(&out); err != nil || again != req {
			t.Fatalf("%+v was written and read as %+v, %v", req, again, err)
		}
	})
}

func TestResponse(t *testing.T) {
	t.Parallel()
	for _, class := range []error{errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrUnavailable} {
		var wire bytes.Buffer
		if err := writeResponse(&wire, failure(fmt.Errorf("agent %q: %w", "x", class))); err != nil {
			t.Fatal(err)
		}
		var got response
		if err := readFrame(&wire, maxResponse, &got); err != nil {
			t.Fatal(err)
		}
		if err := got.err(); !errors.Is(err, class) || !strings.HasPrefix(err.Error(), `agent "x": `) {
			t.Errorf("an error of class %v came as %v", class, err)
		}
	}
	if err := failure(errors.New("other")).err(); err.Error() != "other" || !errors.Is(err, errdefs.ErrUnknown) {
		t.Errorf("an error without a class came as %v", err)
	}
	want := response{Agents: []Agent{{Name: "a", Sessions: []Session{{Kind: tunnel.Media, Remote: "192.0.2.1:1", Since: time.Unix(1, 0).UTC()}}}}}
	var wire bytes.Buffer
	if err := writeResponse(&wire, want); err != nil {
		t.Fatal(err)
	}
	var got response
	if err := readFrame(&wire, maxResponse, &got); err != nil || got.err() != nil {
		t.Fatal(err, got.err())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
	if err := writeFrame(io.Discard, 10, want); !errors.Is(err, errdefs.ErrOutOfRange) {
		t.Errorf("a frame beyond the limit = %v", err)
	}
}
