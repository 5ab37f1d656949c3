package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/phonehost/phonehost/agent/access"
)

// expectation says which peer is wanted at the other end.
type expectation struct {
	usage x509.ExtKeyUsage
	kind  access.Kind
	name  string // "" means any
}

// verifyPeer checks the certificates of a connection, full handshake or resumed: chain and times against the authorities
// of now, key usages, and the identity. Errors are refusals.
func verifyPeer(state tls.ConnectionState, roots *x509.CertPool, want expectation) (access.Identity, error) {
	if len(state.PeerCertificates) == 0 {
		return access.Identity{}, refuse(ReasonNoCertificate, access.Identity{}, "the peer shows no certificate")
	}
	leaf := state.PeerCertificates[0]
	id, idErr := access.FromCertificate(leaf)
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{want.usage},
	})
	if err != nil {
		return id, refuse(certificateReason(err, time.Now()), id, "%s: %w", describe(leaf), err)
	}
	if err := checkUsage(leaf, want.usage, id); err != nil {
		return id, err
	}
	switch {
	case idErr != nil:
		return id, refuse(ReasonIdentity, id, "%w", idErr)
	case id.Kind != want.kind:
		return id, refuse(ReasonKind, id, "the peer is %s, and only a certificate of phonehost://%s/NAME is taken here", id, want.kind)
	case want.name != "" && id.Name != want.name:
		return id, refuse(ReasonName, id, "the peer is %s, expected %s/%s", id, want.kind, want.name)
	}
	return id, nil
}

// describe names a certificate in an error.
func describe(cert *x509.Certificate) string {
	return fmt.Sprintf("certificate %q, valid %s to %s", cert.Subject,
		cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
}

// checkUsage asks for what x509 lets pass when a certificate is silent about it.
func checkUsage(leaf *x509.Certificate, usage x509.ExtKeyUsage, id access.Identity) error {
	names := map[x509.ExtKeyUsage]string{x509.ExtKeyUsageClientAuth: "client authentication", x509.ExtKeyUsageServerAuth: "server authentication"}
	switch {
	case leaf.IsCA:
		return refuse(ReasonUsage, id, "certificate %q is an authority's", leaf.Subject)
	case !slices.Contains(leaf.ExtKeyUsage, usage):
		return refuse(ReasonUsage, id, "certificate %q is not made for %s", leaf.Subject, names[usage])
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return refuse(ReasonUsage, id, "certificate %q is not made for signatures", leaf.Subject)
	}
	return nil
}

// helloKey finds, in the context of a handshake, where its ClientHello is to be kept.
type helloKey struct{}

func withHello(ctx context.Context, hello *atomic.Pointer[tls.ClientHelloInfo]) context.Context {
	return context.WithValue(ctx, helloKey{}, hello)
}

// serverConfig returns the TLS configuration of an accepting side that serves the given kinds, each to one kind of peer.
// It stays good when certificates change.
func serverConfig(certs *Certificates, serves map[Kind]access.Kind) *tls.Config {
	var cached atomic.Pointer[serverState]
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if keep, ok := hello.Context().Value(helloKey{}).(*atomic.Pointer[tls.ClientHelloInfo]); ok {
				keep.Store(hello)
			}
			m := certs.current()
			if c := cached.Load(); c != nil && c.material == m {
				return c.config, nil
			}
			next := &serverState{material: m, config: m.serverConfig(serves)}
			cached.Store(next)
			return next.config, nil
		},
	}
}

// serverState is the configuration for one state of the files.
type serverState struct {
	material *material
	config   *tls.Config
}

func (m *material) serverConfig(serves map[Kind]access.Kind) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    m.roots,
		NextProtos:   protocols(serves),
		// Small first records would part yamux headers from their bodies.
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			kind, ok := kindOf(state.NegotiatedProtocol, serves)
			if !ok {
				return refuse(ReasonProtocol, access.Identity{}, "the peer names no protocol, want one of %q", protocols(serves))
			}
			_, err := verifyPeer(state, m.roots, expectation{usage: x509.ExtKeyUsageClientAuth, kind: serves[kind]})
			return err
		},
	}
}

// clientConfig returns the TLS configuration for one dial. The peer is known by its URI SAN, not by a host name, so
// crypto/tls does not check the certificate and verifyPeer does, with resumed sessions too.
func (m *material) clientConfig(host string, kind Kind, want expectation) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         host,
		NextProtos:         []string{kind.protocol()},
		ClientSessionCache: m.tickets,
		// One fixed certificate whatever authorities the server names: it says why it refuses it.
		GetClientCertificate:        func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &m.cert, nil },
		InsecureSkipVerify:          true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol != kind.protocol() {
				return refuse(ReasonProtocol, access.Identity{}, "the server does not speak %s", kind.protocol())
			}
			_, err := verifyPeer(state, m.roots, want)
			return err
		},
	}
}

// protocols returns the ALPN names of the kinds, sorted.
func protocols(serves map[Kind]access.Kind) []string {
	var names []string
	for kind := range serves {
		names = append(names, kind.protocol())
	}
	slices.Sort(names)
	return names
}

func kindOf(protocol string, serves map[Kind]access.Kind) (Kind, bool) {
	for kind := range serves {
		if kind.protocol() == protocol {
			return kind, true
		}
	}
	return "", false
}
