package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/phonehost/phonehost/agent/access"
)

// The benchmarks compare a stream of a session with a bare TLS 1.3 connection between the same certificates, over loopback,
// in one run. Each has a sub-benchmark "tls" and its peers; benchstat or an eye gives the ratio.

// benchPeers returns connections whose other ends run serve: a bare TLS one, and a stream of each kind of session.
func benchPeers(b *testing.B, serve func(net.Conn)) map[string]net.Conn {
	b.Helper()
	ca := newAuthority(b)
	agent, fleet := certificates(b, ca, agentURI), certificates(b, ca, clientURI)
	var serving sync.WaitGroup
	b.Cleanup(serving.Wait)

	addr, _ := run(b, func(ctx context.Context, port net.Listener) error {
		defer context.AfterFunc(ctx, func() { _ = port.Close() })()
		conn, err := port.Accept()
		if err != nil {
			return nil
		}
		defer conn.Close()
		serve(tls.Server(conn, agent.current().serverConfig(map[Kind]access.Kind{Control: access.KindClient})))
		return nil
	})
	bare, err := tls.Dial("tcp", addr, fleet.current().clientConfig("127.0.0.1", Control, expectation{usage: 1, kind: access.KindAgent}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = bare.Close() })
	peers := map[string]net.Conn{"tls": bare}

	streams := NewStreams()
	serving.Go(func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { defer conn.Close(); serve(conn) })
		}
	})
	b.Cleanup(func() { _ = streams.Close() })
	door, _ := runDoor(b, DoorConfig{Certificates: agent, Streams: streams, Logger: slog.New(slog.DiscardHandler)})
	for _, kind := range []Kind{Control, Media} {
		s, err := Dial(b.Context(), door, DialConfig{Certificates: fleet, Kind: kind, Peer: access.Identity{Kind: access.KindAgent}})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(s.Close)
		stream, err := s.Open()
		if err != nil {
			b.Fatal(err)
		}
		peers[string(kind)] = stream
	}
	return peers
}

// BenchmarkThroughput writes in one direction, in units of the given size.
func BenchmarkThroughput(b *testing.B) {
	peers := benchPeers(b, func(conn net.Conn) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{conn}) })
	for _, size := range []int{1400, 16 << 10, 64 << 10} {
		data := pattern(size)
		for _, name := range []string{"tls", "control", "media"} {
			b.Run(fmt.Sprintf("size=%d/%s", size, name), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := peers[name].Write(data); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkEcho sends a message and waits for it to come back, and reports the median and the 99th percentile.
func BenchmarkEcho(b *testing.B) {
	peers := benchPeers(b, func(conn net.Conn) { _, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}) })
	for _, size := range []int{64, 16 << 10} {
		data, back := pattern(size), make([]byte, size)
		for _, name := range []string{"tls", "control", "media"} {
			b.Run(fmt.Sprintf("size=%d/%s", size, name), func(b *testing.B) {
				var times []time.Duration
				for b.Loop() {
					began := time.Now()
					if _, err := peers[name].Write(data); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(peers[name], back); err != nil {
						b.Fatal(err)
					}
					times = append(times, time.Since(began))
				}
				slices.Sort(times)
				b.ReportMetric(float64(times[len(times)/2].Microseconds()), "p50-us")
				b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-us")
			})
		}
	}
}
