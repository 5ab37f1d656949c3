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

	"github.com/phonehost/phonehost/agent/tunnel"
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
	connect := func(tunnel.Kind) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///phonehost",
			grpc.WithTransportCredentials(insecure.NewCredentials()), // the kernel tells who we are
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(tunnel.MaxResponse)),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialSocket(ctx, path) }))
	}
	return newClient(connect, func() error { return nil })
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
