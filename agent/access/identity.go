// Package access decides who a caller is and what a caller may do.
//
// It owns the Identity of a peer (from a certificate's URI SAN or from the credentials of a Unix socket), the roles, the one
// table that says which role every RPC needs, and the gRPC credentials and interceptors that apply them. It denies by
// default: an RPC that the table does not name is refused for everybody, and an identity that the configuration does not
// name has no role. It never opens a network port: agent/tunnel does, and hands over connections that implement PeerConn.
//
// Everything here is immutable after its construction and safe for concurrent use; the package starts no goroutines.
package access

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Kind says what sort of identity a peer has.
type Kind string

const (
	// KindAgent is a phonehostd, known by the certificate SAN phonehost://agent/NAME.
	KindAgent Kind = "agent"
	// KindClient is whoever uses an agent: a control plane, a hub or phonectl, known by the SAN phonehost://client/NAME.
	KindClient Kind = "client"
	// KindUID is a process of this host, known by the credentials of its Unix socket.
	KindUID Kind = "uid"
)

// MaxNameLength is the longest NAME of an identity in bytes.
const MaxNameLength = 63

// Identity is who a peer is. The zero value is nobody. Two identities are the same peer when their String is the same.
type Identity struct {
	// Kind is the sort of identity.
	Kind Kind
	// Name is the NAME of the certificate for KindAgent and KindClient; empty for KindUID.
	Name string
	// UID is the effective user id at the time of connect, for KindUID.
	UID uint32
	// GIDs are the effective and the supplementary group ids at the time of connect, for KindUID; sorted, without duplicates.
	GIDs []uint32
}

// String returns the identity as logs, events and role tables write it: "agent/NAME", "client/NAME" or "uid/NUMBER".
func (i Identity) String() string {
	switch i.Kind {
	case KindUID:
		return "uid/" + strconv.FormatUint(uint64(i.UID), 10)
	case KindAgent, KindClient:
		return string(i.Kind) + "/" + i.Name
	default:
		return "nobody"
	}
}

// InGroup reports whether the identity is a process of the group.
func (i Identity) InGroup(gid uint32) bool {
	return i.Kind == KindUID && slices.Contains(i.GIDs, gid)
}

// URI returns the SAN that certifies the identity. It is nil for KindUID and for nobody.
func (i Identity) URI() *url.URL {
	if i.Kind != KindAgent && i.Kind != KindClient {
		return nil
	}
	return &url.URL{Scheme: "phonehost", Host: string(i.Kind), Path: "/" + i.Name}
}

// ValidName reports whether name can be the NAME of an identity: [a-z0-9]([a-z0-9.-]{0,62}).
func ValidName(name string) bool {
	if name == "" || len(name) > MaxNameLength {
		return false
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return true
}

// ParseIdentity reads "agent/NAME" or "client/NAME". The error is of class errdefs.ErrInvalidArgument.
func ParseIdentity(s string) (Identity, error) {
	kind, name, _ := strings.Cut(s, "/")
	if kind != string(KindAgent) && kind != string(KindClient) {
		return Identity{}, fmt.Errorf("identity %q: want agent/NAME or client/NAME: %w", s, errdefs.ErrInvalidArgument)
	}
	if !ValidName(name) {
		return Identity{}, fmt.Errorf("identity %q: name must match [a-z0-9]([a-z0-9.-]{0,62}): %w", s, errdefs.ErrInvalidArgument)
	}
	return Identity{Kind: Kind(kind), Name: name}, nil
}

// ParseURI reads "phonehost://agent/NAME" or "phonehost://client/NAME", to the letter: no port, no query, no escapes.
// The error is of class errdefs.ErrInvalidArgument.
func ParseURI(s string) (Identity, error) {
	rest, ok := strings.CutPrefix(s, "phonehost://")
	if !ok {
		return Identity{}, fmt.Errorf("uri %q: want phonehost://agent/NAME or phonehost://client/NAME: %w", s, errdefs.ErrInvalidArgument)
	}
	id, err := ParseIdentity(rest)
	if err != nil {
		return Identity{}, fmt.Errorf("uri %q: %w", s, err)
	}
	return id, nil
}

// FromCertificate returns the identity of a certificate that somebody else has verified: its one URI SAN. A certificate
// with no or with several URI SANs has no identity. The error is of class errdefs.ErrInvalidArgument.
func FromCertificate(cert *x509.Certificate) (Identity, error) {
	if n := len(cert.URIs); n != 1 {
		return Identity{}, fmt.Errorf("certificate %q: has %d URI names, want exactly one: %w", cert.Subject, n, errdefs.ErrInvalidArgument)
	}
	id, err := ParseURI(cert.URIs[0].String())
	if err != nil {
		return Identity{}, fmt.Errorf("certificate %q: %w", cert.Subject, err)
	}
	return id, nil
}
