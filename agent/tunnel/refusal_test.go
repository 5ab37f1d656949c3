package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
)

// refusals collects what a door refuses.
type refusals chan Refusal

func (r refusals) observer() Observer {
	return Observer{Refused: func(f Refusal) { r <- f }}
}

// raw connects to a port without any of this package.
func raw(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestRefusals brings every wrong peer to an agent's door. Each is refused with its reason, its address and, where there is
// one, the identity that it claims, in the log and at the hook, once.
func TestRefusals(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	client := []string{clientURI}
	good := ours.issue(t, leaf{uris: client})
	clientTLS := func(cert *tls.Certificate) *tls.Config {
		c := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{Control.protocol()}}
		if cert != nil {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		return c
	}
	withCert := func(cert tls.Certificate) func(*testing.T, net.Conn) {
		return func(t *testing.T, conn net.Conn) { handshake(t, conn, clientTLS(&cert)) }
	}
	changed := func(change func(*tls.Config)) func(*testing.T, net.Conn) {
		return func(t *testing.T, conn net.Conn) {
			c := clientTLS(&good)
			change(c)
			handshake(t, conn, c)
		}
	}
	tests := []struct {
		name   string
		come   func(*testing.T, net.Conn)
		reason Reason
		who    string // the identity that is told
	}{
		{"another authority", withCert(theirs.issue(t, leaf{uris: client})), ReasonUnknownCA, "client/fleet"},
		{"expired", withCert(ours.issue(t, leaf{uris: client, notBefore: time.Now().Add(-2 * time.Hour), notAfter: time.Now().Add(-time.Hour)})), ReasonExpired, "client/fleet"},
		{"not yet valid", withCert(ours.issue(t, leaf{uris: client, notBefore: time.Now().Add(time.Hour), notAfter: time.Now().Add(2 * time.Hour)})), ReasonNotYetValid, "client/fleet"},
		{"no certificate", func(t *testing.T, conn net.Conn) { handshake(t, conn, clientTLS(nil)) }, ReasonNoCertificate, "nobody"},
		{"an agent's identity", withCert(ours.issue(t, leaf{uris: []string{agentURI}})), ReasonKind, "agent/shelf-7"},
		{"no identity", withCert(ours.issue(t, leaf{})), ReasonIdentity, "nobody"},
		{"two identities", withCert(ours.issue(t, leaf{uris: []string{clientURI, "phonehost://client/other"}})), ReasonIdentity, "nobody"},
		{"a foreign identity", withCert(ours.issue(t, leaf{uris: []string{"spiffe://example.org/fleet"}})), ReasonIdentity, "nobody"},
		{"a certificate for servers only", withCert(ours.issue(t, leaf{uris: client, usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})), ReasonUsage, "client/fleet"},
		{"a certificate without usages", withCert(ours.issue(t, leaf{uris: client, usages: []x509.ExtKeyUsage{}})), ReasonUsage, "client/fleet"},
		{"a certificate not for signatures", withCert(ours.issue(t, leaf{uris: client, keyUsage: x509.KeyUsageKeyEncipherment})), ReasonUsage, "client/fleet"},
		{"an authority's certificate", withCert(ours.issue(t, leaf{uris: client, isCA: true})), ReasonUsage, "client/fleet"},
		{"another protocol", changed(func(c *tls.Config) { c.NextProtos = []string{"h2"} }), ReasonProtocol, "nobody"},
		{"another version of the protocol", changed(func(c *tls.Config) { c.NextProtos = []string{"phonehost-control/2"} }), ReasonProtocol, "nobody"},
		{"the hub's protocol", changed(func(c *tls.Config) { c.NextProtos = []string{Hub.protocol()} }), ReasonProtocol, "nobody"},
		{"no protocol", changed(func(c *tls.Config) { c.NextProtos = nil }), ReasonProtocol, "nobody"},
		{"TLS 1.2", changed(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), ReasonOldTLS, "nobody"},
		{"a peer that refuses the door's certificate", changed(func(c *tls.Config) { c.InsecureSkipVerify, c.RootCAs, c.ServerName = false, theirs.pool(), "x" }), ReasonPeerRefused, "nobody"},
		{"HTTP", func(t *testing.T, conn net.Conn) { send(t, conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") }, ReasonNotTLS, "nobody"},
		{"garbage", func(t *testing.T, conn net.Conn) { send(t, conn, strings.Repeat("\xff\x00\x13", 1000)) }, ReasonNotTLS, "nobody"},
		{"a TLS record of garbage", func(t *testing.T, conn net.Conn) { send(t, conn, "\x16\x03\x01\x00\x10"+strings.Repeat("\xee", 16)) }, ReasonHandshake, "nobody"},
		{"nothing", func(t *testing.T, conn net.Conn) { _ = conn.Close() }, ReasonIncomplete, "nobody"},
		{"silence", func(t *testing.T, conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }, ReasonTimeout, "nobody"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			refused := make(refusals, 10)
			var log syncBuffer
			timing := Timing{}
			if tt.reason == ReasonTimeout {
				timing.Handshake = quick.Timeout
			}
			addr, stop := runDoor(t, DoorConfig{
				Certificates: certificates(t, ours, agentURI), Observer: refused.observer(), Timing: timing,
				Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			conn := raw(t, addr)
			tt.come(t, conn)
			r := <-refused
			if r.Reason != tt.reason || r.Identity.String() != tt.who || r.Door != "listen" || r.Source != conn.LocalAddr().String() {
				t.Errorf("refused %+v, want reason %s, identity %s, source %s", r, tt.reason, tt.who, conn.LocalAddr())
			}
			good := dial(t, addr, certificates(t, ours, clientURI), Control, Timing{}) // the door serves on
			stream, err := good.Open()
			if err != nil {
				t.Fatal(err)
			}
			roundTrip(t, stream, []byte("hello"))
			good.Close()
			stop()
			if len(refused) > 0 {
				t.Errorf("refused once more: %+v", <-refused)
			}
			want := []string{"peer refused", "reason=" + string(tt.reason), "source=" + r.Source}
			for _, s := range want {
				if strings.Count(log.String(), s) != 1 {
					t.Errorf("the log does not have %q once:\n%s", s, log.String())
				}
			}
		})
	}
}

// handshake goes through TLS as a client and waits until the server ends the connection.
func handshake(t *testing.T, conn net.Conn, c *tls.Config) {
	t.Helper()
	tlsConn := tls.Client(conn, c)
	if err := tlsConn.HandshakeContext(t.Context()); err != nil {
		return // the server refused before its last message
	}
	n, err := io.Copy(io.Discard, tlsConn)
	if n > 0 || err == nil {
		t.Errorf("a refused peer read %d bytes, %v", n, err)
	}
}

// send writes bytes and waits until the server ends the connection.
func send(t *testing.T, conn net.Conn, data string) {
	t.Helper()
	if _, err := io.WriteString(conn, data); err != nil {
		return // the server was faster
	}
	_, _ = io.Copy(io.Discard, conn)
}

// TestDialRefuses dials servers that are not what is expected.
func TestDialRefuses(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	old := leaf{uris: []string{agentURI}, notBefore: time.Now().Add(-2 * time.Hour), notAfter: time.Now().Add(-time.Hour)}
	tests := []struct {
		name   string
		server tls.Certificate
		expect access.Identity
		reason Reason
	}{
		{"a client where an agent is wanted", ours.issue(t, leaf{uris: []string{clientURI}}), access.Identity{Kind: access.KindAgent}, ReasonKind},
		{"an agent where a client is wanted", ours.issue(t, leaf{uris: []string{agentURI}}), access.Identity{Kind: access.KindClient}, ReasonKind},
		{"another agent", ours.issue(t, leaf{uris: []string{agentURI}}), access.Identity{Kind: access.KindAgent, Name: "shelf-8"}, ReasonName},
		{"another authority", theirs.issue(t, leaf{uris: []string{agentURI}}), access.Identity{Kind: access.KindAgent}, ReasonUnknownCA},
		{"expired", ours.issue(t, old), access.Identity{Kind: access.KindAgent}, ReasonExpired},
		{"a certificate for clients only", ours.issue(t, leaf{uris: []string{agentURI}, usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}), access.Identity{Kind: access.KindAgent}, ReasonUsage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr, _ := run(t, func(ctx context.Context, port net.Listener) error {
				defer context.AfterFunc(ctx, func() { _ = port.Close() })()
				conn, err := port.Accept()
				if err != nil {
					return nil
				}
				defer conn.Close()
				_ = tls.Server(conn, &tls.Config{
					Certificates: []tls.Certificate{tt.server}, ClientAuth: tls.RequestClientCert, NextProtos: []string{Control.protocol()},
				}).HandshakeContext(ctx)
				return nil
			})
			_, err := Dial(t.Context(), addr, DialConfig{Certificates: certificates(t, ours, clientURI), Kind: Control, Peer: tt.expect})
			if RefusalReason(err) != tt.reason || !errors.Is(err, errdefs.ErrPermissionDenied) {
				t.Errorf("Dial = %v (reason %q), want reason %q and permission denied", err, RefusalReason(err), tt.reason)
			}
		})
	}
}

// TestDialTellsWhyItWasRefused looks at what the refused side learns.
func TestDialTellsWhyItWasRefused(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ours, agentURI)})
	files := newFiles(t)
	write(t, files, theirs.issue(t, leaf{uris: []string{clientURI}}), ours)
	stranger, err := LoadCertificates(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Dial(t.Context(), addr, DialConfig{Certificates: stranger, Kind: Control, Peer: access.Identity{Kind: access.KindAgent}})
	if !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "refuses the certificate of client/fleet") ||
		!strings.Contains(err.Error(), "unknown certificate authority") {
		t.Errorf("Dial = %v", err)
	}
	_, err = Dial(t.Context(), addr, DialConfig{Certificates: certificates(t, ours, clientURI), Kind: Hub, Peer: access.Identity{Kind: access.KindAgent}})
	if !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("Dial for a kind that is not served = %v", err)
	}
}

func TestTooManySessions(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	refused := make(refusals, 10)
	closed := make(chan SessionInfo, 10)
	observer := refused.observer()
	observer.SessionClosed = func(s SessionInfo, _ error) { closed <- s }
	addr, _ := runDoor(t, DoorConfig{Certificates: certificates(t, ca, agentURI), Limits: Limits{SessionsPerIdentity: 2}, Observer: observer})
	fleet := certificates(t, ca, clientURI)
	first := dial(t, addr, fleet, Control, Timing{})
	dial(t, addr, fleet, Media, Timing{})
	_, err := Dial(t.Context(), addr, DialConfig{Certificates: fleet, Kind: Control, Peer: access.Identity{Kind: access.KindAgent}})
	if !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "client/fleet has 2 sessions") {
		t.Errorf("third session = %v", err)
	}
	if r := <-refused; r.Reason != ReasonTooManySessions || r.Identity.String() != "client/fleet" {
		t.Errorf("refused %+v", r)
	}
	dial(t, addr, certificates(t, ca, "phonehost://client/other"), Control, Timing{}) // another identity has its own share
	first.Close()
	<-closed
	// The place is free a moment after the hook was told: leave follows it in the same goroutine.
	for {
		s, err := Dial(t.Context(), addr, DialConfig{Certificates: fleet, Kind: Control, Peer: access.Identity{Kind: access.KindAgent}})
		if err == nil {
			s.Close()
			break
		}
		if r := <-refused; r.Reason != ReasonTooManySessions {
			t.Fatalf("refused %+v", r)
		}
	}
}

func TestTooManyHandshakes(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	refused := make(refusals, 10)
	addr, _ := runDoor(t, DoorConfig{
		Certificates: certificates(t, ca, agentURI), Limits: Limits{HandshakesPerSource: 2}, Observer: refused.observer(),
	})
	idle := []net.Conn{raw(t, addr), raw(t, addr)}
	third := raw(t, addr)
	if r := <-refused; r.Reason != ReasonTooManyStarting || r.Source != third.LocalAddr().String() {
		t.Errorf("refused %+v, want the third, %s", r, third.LocalAddr())
	}
	for _, conn := range idle {
		_ = conn.Close()
		if r := <-refused; r.Reason != ReasonIncomplete {
			t.Errorf("refused %+v, want an incomplete handshake", r)
		}
	}
}

func TestAdmissionSources(t *testing.T) {
	t.Parallel()
	addr := func(s string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := newAdmission(Limits{Handshakes: 3, HandshakesPerSource: 1})
	leave, ok := a.beginHandshake(addr("[2001:db8::1]:1"))
	if !ok {
		t.Fatal("the first handshake was refused")
	}
	if _, ok := a.beginHandshake(addr("[2001:db8::ffff:2]:2")); ok {
		t.Error("a second handshake from one /64 was let in")
	}
	if _, ok := a.beginHandshake(addr("[2001:db8:0:1::1]:1")); !ok {
		t.Error("a handshake from another /64 was refused")
	}
	if _, ok := a.beginHandshake(addr("192.0.2.1:1")); !ok {
		t.Error("a handshake from an IPv4 address was refused")
	}
	if _, ok := a.beginHandshake(addr("192.0.2.2:1")); ok {
		t.Error("a fourth handshake was let in, the limit is three in all")
	}
	leave()
	leave() // once more counts for nothing
	if _, ok := a.beginHandshake(addr("192.0.2.2:1")); !ok {
		t.Error("a handshake was refused though one has ended")
	}
	if _, ok := a.beginHandshake(addr("[::ffff:192.0.2.1]:9")); ok {
		t.Error("an IPv4 address in IPv6 form was taken for another source")
	}
}

func TestRefusalLogIsLimited(t *testing.T) {
	t.Parallel()
	var out syncBuffer
	log := newRefusalLog(slog.New(slog.NewTextHandler(&out, nil)))
	for range 100 {
		log.write(Refusal{Door: "listen", Source: "192.0.2.1:1", Reason: ReasonNotTLS, Err: errors.New("x")})
	}
	if n := strings.Count(out.String(), "peer refused"); n < 20 || n > 30 {
		t.Errorf("100 refusals at once made %d lines, want about 20", n)
	}
}
