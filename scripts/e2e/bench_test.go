package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/phonehost/phonehost/agent/client"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// BenchmarkTunnel measures how long a frame takes beside its encoding, from the guest's commit to the viewer at the other end of the TLS
// tunnel, at 30 frames a second; and how long a bare TLS connection takes to echo the same packets in the same run. Each packet is echoed
// in the middle between two frames, so that both sides find the machine as idle as the other does (an echo right after the frame, in
// warm caches and on cores that are awake, is reported beside it). An iteration is one frame:
//
//	go test -run '^$' -bench Tunnel -benchtime 900x ./scripts/e2e
func BenchmarkTunnel(b *testing.B) {
	h := newHost(b)
	h.create("p1")
	echo := h.echo()
	c, err := client.Dial(b.Context(), client.Options{
		Host: "tls://" + h.tlsAddr, CA: h.path("pki", "ca.pem"),
		Cert: h.path("pki", "client-fleet.pem"), Key: h.path("pki", "client-fleet-key.pem"),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	stream, err := phonehostv1.NewStreamServiceClient(c.Media()).Attach(ctx)
	if err != nil {
		b.Fatal(err)
	}
	start := &phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Start{Start: &phonehostv1.AttachStart{PhoneId: "p1"}}}
	if err := stream.Send(start); err != nil {
		b.Fatal(err)
	}
	var ours, theirs, warm, toEncoder, toAgent, toViewer []float64
	between := time.NewTimer(0)
	<-between.C
	next := func() {
		p, arrived := packet(b, stream)
		ms := func(from, to int64) float64 { return float64(to-from) / 1e6 }
		ours = append(ours, ms(p.GetCommitTimeNs(), arrived.UnixNano())-ms(p.GetEncodeStartTimeNs(), p.GetEncodeEndTimeNs()))
		toEncoder = append(toEncoder, ms(p.GetCommitTimeNs(), p.GetEncodeStartTimeNs()))
		toAgent = append(toAgent, ms(p.GetEncodeEndTimeNs(), p.GetSendTimeNs()))
		toViewer = append(toViewer, ms(p.GetSendTimeNs(), arrived.UnixNano()))
		warm = append(warm, echo(p.GetData()))
		between.Reset(time.Second / 30 / 2)
		<-between.C
		theirs = append(theirs, echo(p.GetData()))
	}
	for range 30 { // connections warm up, the key frame passes
		next()
	}
	ours, theirs, warm, toEncoder, toAgent, toViewer = nil, nil, nil, nil, nil, nil
	for b.Loop() {
		next()
	}
	b.ReportMetric(quantile(warm, 50), "tls_echo_warm_p50_ms")
	b.ReportMetric(quantile(toEncoder, 50), "to_encoder_p50_ms")
	b.ReportMetric(quantile(toAgent, 50), "to_agent_p50_ms")
	b.ReportMetric(quantile(toViewer, 50), "to_viewer_p50_ms")
	for _, q := range []float64{50, 99} {
		b.ReportMetric(quantile(ours, q), fmt.Sprintf("p%.0f_ms", q))
		b.ReportMetric(quantile(theirs, q), fmt.Sprintf("tls_echo_p%.0f_ms", q))
		b.ReportMetric(quantile(ours, q)/quantile(theirs, q), fmt.Sprintf("ratio_p%.0f", q))
	}
	b.ReportMetric(0, "ns/op")
}

// packet receives and acknowledges the next packet.
func packet(b *testing.B, stream phonehostv1.StreamService_AttachClient) (*phonehostv1.Packet, time.Time) {
	for {
		answer, err := stream.Recv()
		if err != nil {
			b.Fatal(err)
		}
		p := answer.GetPacket()
		if p == nil {
			continue
		}
		arrived := time.Now()
		ack := &phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Ack{Ack: &phonehostv1.Ack{Seq: p.GetSeq()}}}
		if err := stream.Send(ack); err != nil {
			b.Fatal(err)
		}
		return p, arrived
	}
}

// echo connects to an echo server over TLS with the host's certificates and returns what sends a packet and measures, in milliseconds,
// until the whole of it is back.
func (h *host) echo() func([]byte) float64 {
	h.t.Helper()
	pair, err := tls.LoadX509KeyPair(h.path("pki", "agent-e2e.pem"), h.path("pki", "agent-e2e-key.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	ca, err := os.ReadFile(h.path("pki", "ca.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})
	if err != nil {
		h.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(conn, conn)
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{
		RootCAs: pool, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // the certificate names an agent, not a host
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close(); l.Close(); <-done })
	back := make([]byte, 1<<20)
	return func(data []byte) float64 {
		began := time.Now()
		sent := make(chan error, 1)
		go func() { _, err := conn.Write(data); sent <- err }()
		if _, err := io.ReadFull(conn, back[:len(data)]); err != nil {
			h.t.Fatal(err)
		}
		took := time.Since(began)
		if err := <-sent; err != nil {
			h.t.Fatal(err)
		}
		return float64(took) / 1e6
	}
}

func quantile(samples []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*q/100))]
}
