package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// How much is read at once, and of each message: questions are short.
const (
	batchLength  = 64
	messageBytes = 1500
)

// batchReader reads several messages by one system call (recvmmsg(2)).
type batchReader interface {
	ReadBatch([]ipv4.Message, int) (int, error)
}

func newBatchReader(u *net.UDPConn) batchReader {
	if u.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is4() {
		return ipv4.NewPacketConn(u)
	}
	return ipv6.NewPacketConn(u) // whose Message is the same type
}

// serveUDP answers what comes to a socket until its reading is stopped. Answers are counted in answers.
func (s *Server) serveUDP(ctx context.Context, u *net.UDPConn, answers *sync.WaitGroup) {
	reader := newBatchReader(u)
	batch := make([]ipv4.Message, batchLength)
	for i := range batch {
		batch[i].Buffers = [][]byte{make([]byte, messageBytes)}
	}
	for {
		n, err := reader.ReadBatch(batch, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of a message that was sent before: the phone is gone
			s.log.Debug("read", "error", err)
			continue
		}
		now := s.now()
		for i := range batch[:n] {
			from := batch[i].Addr.(*net.UDPAddr).AddrPort()
			if !s.rates.allow(from.Addr().Unmap(), now) {
				s.counts.limited.Add(1)
				continue
			}
			raw := append([]byte(nil), batch[i].Buffers[0][:batch[i].N]...)
			answers.Go(func() {
				if answer := s.serve(ctx, from.Addr().Unmap(), raw, false); answer != nil {
					if _, err := u.WriteToUDPAddrPort(answer, from); err != nil {
						s.log.Debug("answer", "to", from, "error", err)
					}
				}
			})
		}
	}
}

// Times of TCP: how long a connection may be idle, and how long it may take to take an answer.
const (
	idleTime  = 8 * time.Second
	writeTime = 2 * time.Second
)

// serveTCP answers what comes to a listener until it is stopped. When ctx ends its connections end after the answer they wait for.
func (s *Server) serveTCP(ctx, working context.Context, l *net.TCPListener, answers *sync.WaitGroup) {
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or the peer is gone
			s.log.Warn("accept", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !s.connections.take(from) {
			s.counts.limited.Add(1)
			_ = conn.Close()
			continue
		}
		answers.Go(func() {
			defer s.connections.leave(from)
			s.serveConnection(ctx, working, conn, from)
		})
	}
}

// serveConnection answers the questions of a connection, one after the other.
func (s *Server) serveConnection(ctx, working context.Context, conn *net.TCPConn, from netip.Addr) {
	defer conn.Close()
	// A connection that waits for a question is not waited for, but what has arrived is read.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now().Add(drainTime)) })
	defer stop()
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idleTime)); err != nil {
			return
		}
		if ctx.Err() != nil { // the other deadline may have been set before this one
			_ = conn.SetReadDeadline(time.Now().Add(drainTime))
		}
		raw, err := readMessage(conn)
		if err != nil {
			return
		}
		if !s.rates.allow(from, s.now()) {
			s.counts.limited.Add(1)
			return
		}
		answer := s.serve(working, from, raw, true)
		if answer == nil || conn.SetWriteDeadline(time.Now().Add(writeTime)) != nil {
			return
		}
		framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)
		if _, err := conn.Write(framed); err != nil || ctx.Err() != nil {
			return
		}
	}
}

// readMessage reads a message with its length before it (RFC 1035, section 4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(length[:])
	if n > messageBytes {
		return nil, errors.New("a question as long as this is none")
	}
	raw := make([]byte, n)
	_, err := io.ReadFull(r, raw)
	return raw, err
}
