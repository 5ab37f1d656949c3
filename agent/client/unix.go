package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// dialUnix connects to the socket of an agent of this host.
func dialUnix(ctx context.Context, path string) (*Client, error) {
	// One plain connect first: its error is precise, and gRPC's is not.
	conn, err := dialSocket(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := conn.Close(); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	dial := func() (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///phonehostd",
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialSocket(ctx, path) }))
	}
	control, err := dial()
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	media, err := dial()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), control.Close())
	}
	return &Client{control: control, media: media}, nil
}

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("socket %s does not exist, so phonehostd does not run here or listens elsewhere; "+
			"start it with: systemctl start phonehostd: %w", path, errdefs.ErrNotFound)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("socket %s: this user may not use it; run as root, or join its group with: "+
			"sudo usermod -aG phonehost $USER, and log in again: %w", path, errdefs.ErrPermissionDenied)
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("socket %s: nobody serves it, phonehostd has stopped; start it with: "+
			"systemctl start phonehostd: %w", path, errdefs.ErrUnavailable)
	default:
		return nil, fmt.Errorf("socket %s: %w: %w", path, err, errdefs.ErrUnavailable)
	}
}
