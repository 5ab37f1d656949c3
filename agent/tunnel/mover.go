package tunnel

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// mover takes a gRPC connection off a stream whose session drains. gRPC clients have no word for that, so it counts the calls,
// closes the stream when there are none, and holds new calls up until gRPC has noticed: none is lost in between.
type mover struct {
	mu     sync.Mutex
	stream *Stream       // the last one, if it is one of this package's
	calls  int           // that run, and that are about to
	moving chan struct{} // not nil while gRPC has not noticed the end of the stream; closed then
}

// follow makes c the connection's present stream.
func (m *mover) follow(c net.Conn) {
	stream, ok := c.(*Stream)
	if !ok {
		return
	}
	m.mu.Lock()
	m.stream = stream
	m.mu.Unlock()
	stream.session.afterDrain(stream, m.leaveIfIdle)
}

// enter counts a call that is about to begin.
func (m *mover) enter(ctx context.Context) error {
	for {
		m.mu.Lock()
		moving := m.moving
		if moving == nil {
			m.calls++
			m.mu.Unlock()
			return nil
		}
		m.mu.Unlock()
		select {
		case <-moving:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// leave counts a call that has ended.
func (m *mover) leave() {
	m.mu.Lock()
	m.calls--
	m.mu.Unlock()
	m.leaveIfIdle()
}

func (m *mover) leaveIfIdle() {
	m.mu.Lock()
	stream := m.stream
	if stream == nil || m.calls != 0 || m.moving != nil || !stream.session.isDraining() || stream.session.left(stream) {
		m.mu.Unlock()
		return
	}
	m.moving = make(chan struct{})
	m.mu.Unlock()
	_ = stream.Close() // gRPC sees the end and asks for another stream at the next call
}

// unary and streaming hold a call from before gRPC chooses its transport: until it has ended, or is counted by HandleRPC.
func (m *mover) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.leave()
	return invoke(ctx, method, req, reply, cc, opts...)
}

func (m *mover) streaming(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.leave()
	return open(ctx, desc, cc, method, opts...)
}

// TagRPC implements stats.Handler.
func (m *mover) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (m *mover) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.Begin:
		m.mu.Lock()
		m.calls++
		m.mu.Unlock()
	case *stats.End:
		m.leave()
	}
}

// TagConn implements stats.Handler.
func (m *mover) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler. When gRPC tells the end of a connection it no longer gives calls to it.
func (m *mover) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, ended := s.(*stats.ConnEnd); ended {
		m.moved()
	}
}

// moved lets calls go on: gRPC has left the stream.
func (m *mover) moved() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.moving != nil {
		close(m.moving)
		m.moving = nil
	}
}
