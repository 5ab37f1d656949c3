package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"
)

// Dial connects to an address inside the guest, as net.Dial does there: "tcp" "127.0.0.1:8443", "unix" "/run/x.sock". Networks
// of datagrams are not carried. The end of ctx after Dial has returned changes nothing. The connection has CloseWrite.
func (c *Client) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	call, err := c.begin(ctx, Request{Op: OpDial, Network: network, Address: address})
	if err != nil {
		return nil, err
	}
	f, err := readFrame(call.stream, nil)
	if err == nil && (f.kind != frameResult || !call.stop()) {
		err = fmt.Errorf("frame of kind %d is no result: %w", f.kind, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		call.end()
		return nil, fmt.Errorf("dial %s %s: %w", network, address, c.failed(ctx, OpDial, err))
	}
	var r result
	if err := json.Unmarshal(f.payload, &r); err != nil {
		call.end()
		return nil, fmt.Errorf("dial %s %s: decode the guest's result: %v: %w", network, address, err, errdefs.ErrUnavailable)
	}
	if err := r.err(); err != nil {
		call.end()
		return nil, fmt.Errorf("dial %s %s: %w", network, address, err)
	}
	return &conn{Stream: call.stream, remote: guestAddr{network, address}}, nil
}

// conn is a connection to an address of the guest.
type conn struct {
	*yamux.Stream
	remote guestAddr
}

// CloseWrite tells the other side that nothing more comes. Its own bytes still arrive, for a minute.
func (c *conn) CloseWrite() error { return c.Stream.Close() }

// RemoteAddr returns the address that was dialled.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr returns the guest's side.
func (c *conn) LocalAddr() net.Addr { return guestAddr{c.remote.network, "vm"} }

type guestAddr struct{ network, address string }

func (a guestAddr) Network() string { return a.network }
func (a guestAddr) String() string  { return a.address }

// splice copies between a stream of the host and a connection of the guest until both directions have ended.
func splice(stream *yamux.Stream, r io.Reader, conn net.Conn) {
	var up sync.WaitGroup
	up.Go(func() {
		_, err := io.Copy(onlyWriter{conn}, r)
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			half.CloseWrite()
		} else {
			conn.Close()
		}
	})
	io.CopyBuffer(onlyWriter{stream}, onlyReader{conn}, make([]byte, chunk))
	stream.Close()
	up.Wait()
	conn.Close()
}

// onlyWriter and onlyReader hide the methods that io.Copy would take a shortcut by.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }
