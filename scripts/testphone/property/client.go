package property

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
)

// Client asks a property service. Every call makes a connection of its own, so a Client is safe for concurrent use and holds nothing open.
type Client struct {
	socket string
}

// NewClient returns a client of the service at a socket, empty for SocketPath.
func NewClient(socket string) *Client {
	if socket == "" {
		socket = SocketPath
	}
	return &Client{socket}
}

// Set sets a property. Errors: errdefs.ErrInvalidArgument, ErrReadOnly, errdefs.ErrPermissionDenied, errdefs.ErrNotFound for an order
// to a service that does not exist, errdefs.ErrUnavailable without a service.
func (c *Client) Set(ctx context.Context, name, value string) error {
	req := binary.LittleEndian.AppendUint32(nil, cmdSet)
	conn, err := c.ask(ctx, appendString(appendString(req, name), value))
	if err != nil {
		return fmt.Errorf("set property %.140q: %w", name, err)
	}
	return conn.Close()
}

// Get returns the value of a name, empty when it is not set. Error: errdefs.ErrUnavailable without a service.
func (c *Client) Get(ctx context.Context, name string) (string, error) {
	conn, err := c.ask(ctx, appendString(binary.LittleEndian.AppendUint32(nil, cmdGet), name))
	if err != nil {
		return "", fmt.Errorf("get property %.140q: %w", name, err)
	}
	defer conn.Close()
	value, err := readString(conn)
	if err != nil {
		return "", fmt.Errorf("get property %.140q: %w: %w", name, err, errdefs.ErrUnavailable)
	}
	return value, nil
}

// List returns every property, sorted by name. Error: errdefs.ErrUnavailable without a service.
func (c *Client) List(ctx context.Context) ([]Property, error) {
	conn, err := c.ask(ctx, binary.LittleEndian.AppendUint32(nil, cmdList))
	if err != nil {
		return nil, fmt.Errorf("list properties: %w", err)
	}
	defer conn.Close()
	list, err := readList(conn)
	if err != nil {
		return nil, fmt.Errorf("list properties: %w: %w", err, errdefs.ErrUnavailable)
	}
	return list, nil
}

// Watch calls f with every property whose name begins with prefix, first as it is and then on each change, until ctx ends or the
// service goes away. Only the last of several quick changes may be seen. Error: ctx's, or errdefs.ErrUnavailable.
func (c *Client) Watch(ctx context.Context, prefix string, f func(Property)) error {
	conn, err := c.ask(ctx, appendString(binary.LittleEndian.AppendUint32(nil, cmdWatch), prefix))
	if err != nil {
		return fmt.Errorf("watch properties %.140q: %w", prefix, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for {
		name, value, err := readPair(conn.(*net.UnixConn))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("watch properties %.140q: %w: %w", prefix, err, errdefs.ErrUnavailable)
		}
		f(Property{name, value})
	}
}

// ask sends a request and reads its result. The connection is returned with the rest of the answer unread.
func (c *Client) ask(ctx context.Context, req []byte) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	_, err = conn.Write(req)
	var result uint32
	if err == nil {
		result, err = readUint32(conn)
	}
	if !stop() || err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	if err := errorOf(result); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func readList(conn net.Conn) ([]Property, error) {
	n, err := readUint32(conn)
	if err != nil {
		return nil, err
	}
	if n > maxCount {
		return nil, fmt.Errorf("list of %d: %w", n, errdefs.ErrDataLoss)
	}
	var list []Property
	for range n {
		name, value, err := readPair(conn.(*net.UnixConn))
		if err != nil {
			return nil, err
		}
		list = append(list, Property{name, value})
	}
	return list, nil
}
