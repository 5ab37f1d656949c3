package access

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// PeerConn is a connection whose peer is known. Every door of the agent delivers its connections as PeerConn.
type PeerConn interface {
	net.Conn
	// Identity returns who is at the other end; it does not change during the life of the connection.
	Identity() Identity
	// Door returns the way in: "unix", "listen" or "dial:ADDR" with the address that the agent dialed.
	Door() string
	// SessionKind returns "control" or "media", or "" for a door that does not tell them apart.
	SessionKind() string
}

// AuthInfo is what gRPC knows of a caller: the identity and the way in of the connection that carries the call.
type AuthInfo struct {
	credentials.CommonAuthInfo
	// Identity is who calls.
	Identity Identity
	// Door is PeerConn.Door of the connection.
	Door string
	// SessionKind is PeerConn.SessionKind of the connection.
	SessionKind string
}

// AuthType implements credentials.AuthInfo.
func (AuthInfo) AuthType() string { return "phonehost" }

// Credentials returns the server side credentials that take the identity from a PeerConn. They add no encryption: the
// doors have that. A connection that is no PeerConn is refused.
func Credentials() credentials.TransportCredentials { return peerCredentials{} }

type peerCredentials struct{}

func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	pc, ok := conn.(PeerConn)
	if !ok {
		return nil, nil, fmt.Errorf("connection from %s came through no door", conn.RemoteAddr())
	}
	return conn, AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		Identity:       pc.Identity(),
		Door:           pc.Door(),
		SessionKind:    pc.SessionKind(),
	}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("access credentials are for servers only")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: AuthInfo{}.AuthType()}
}

func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

func (peerCredentials) OverrideServerName(string) error { return nil }

// FromContext returns who makes the call of a handler's ctx. It is false outside of a call that came through a door.
func FromContext(ctx context.Context) (Identity, bool) {
	info, ok := InfoFromContext(ctx)
	return info.Identity, ok
}

// InfoFromContext returns the caller of a handler's ctx with the way in that the call took.
func InfoFromContext(ctx context.Context) (AuthInfo, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return AuthInfo{}, false
	}
	info, ok := p.AuthInfo.(AuthInfo)
	return info, ok
}

// NewContext returns a ctx whose caller is info, for servers that serve without gRPC's transport, and for tests of handlers.
func NewContext(ctx context.Context, info AuthInfo) context.Context {
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: info})
}
