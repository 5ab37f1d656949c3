package tunnel

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// MaxRequest is the largest message that an agent takes, in bytes; what is more comes as a stream of chunks.
	MaxRequest = 1 << 20
	// MaxResponse is the largest message that a client takes, in bytes: an access unit of video is one message.
	MaxResponse = 4 << 20
	// maxCalls is the most calls at a time on one gRPC connection.
	maxCalls = 256
)

// ServerOptions returns the settings of a gRPC server that serves Streams. gRPC's own keepalive stays off: sessions find
// dead peers, and two layers would only contradict each other.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxRequest),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.ConnectionTimeout(10 * time.Second),
		// One write of gRPC is one frame of yamux is one record of TLS.
		grpc.WriteBufferSize(ChunkSize),
		grpc.StaticStreamWindowSize(1 << 20),
		grpc.StaticConnWindowSize(2 << 20),
	}
}

// NewClientConn returns a gRPC connection over streams that open gives it: one at a time, opened at the first call and again
// after the last was lost. When the session below drains, the connection leaves its stream as soon as it has no calls, so
// that the next call goes over a stream that open gives then. The caller closes it.
func NewClientConn(kind Kind, open func(context.Context) (net.Conn, error), opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	m := &mover{}
	stream, conn := int32(256<<10), int32(512<<10)
	if kind != Control {
		stream, conn = 2<<20, 4<<20
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS lies below yamux
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			m.moved() // who dials has left the last stream
			c, err := open(ctx)
			if err != nil {
				return nil, err
			}
			m.follow(c)
			return c, nil
		}),
		grpc.WithStatsHandler(m),
		grpc.WithChainUnaryInterceptor(m.unary),
		grpc.WithChainStreamInterceptor(m.streaming),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxResponse)),
		grpc.WithWriteBufferSize(ChunkSize),
		grpc.WithStaticStreamWindowSize(stream),
		grpc.WithStaticConnWindowSize(conn),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: backoffFirst, Multiplier: 2, Jitter: 0.5, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 10 * time.Second,
		}),
	}
	return grpc.NewClient("passthrough:///phonehost", append(options, opts...)...)
}
