package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/phonehost/phonehost/agent/access"
)

// Reason says why a peer was refused.
type Reason string

// The reasons for a refusal.
const (
	ReasonNotTLS          Reason = "not_tls"             // what came is not TLS
	ReasonOldTLS          Reason = "old_tls"             // the peer offers no TLS 1.3
	ReasonProtocol        Reason = "bad_alpn"            // the peer names no protocol that is served here
	ReasonNoCertificate   Reason = "no_certificate"      // the peer shows no certificate
	ReasonUnknownCA       Reason = "unknown_ca"          // no authority that is trusted here signed it
	ReasonExpired         Reason = "expired"             // the certificate's time is over
	ReasonNotYetValid     Reason = "not_yet_valid"       // the certificate's time has not come
	ReasonUsage           Reason = "wrong_usage"         // the certificate is not made for this side of TLS
	ReasonIdentity        Reason = "bad_identity"        // no or several or malformed URI SANs
	ReasonKind            Reason = "wrong_kind"          // an agent where a client is wanted, or the other way
	ReasonName            Reason = "wrong_name"          // not the peer that was expected
	ReasonBadCertificate  Reason = "bad_certificate"     // anything else that is wrong with it
	ReasonHandshake       Reason = "bad_handshake"       // TLS broke for another reason
	ReasonPeerRefused     Reason = "refused_by_peer"     // the peer refuses this side
	ReasonTimeout         Reason = "timeout"             // the handshake took too long
	ReasonIncomplete      Reason = "incomplete"          // the peer went away during the handshake
	ReasonTooManyStarting Reason = "too_many_handshakes" // Limits.Handshakes or HandshakesPerSource
	ReasonTooManySessions Reason = "too_many_sessions"   // Limits.SessionsPerIdentity
	ReasonNotAllowed      Reason = "not_allowed"         // a known peer that may not come in here
)

// Refusal is one peer that was turned away.
type Refusal struct {
	// Door is the way in that was tried: "listen", or "dial:ADDR".
	Door string
	// Source is the peer's address.
	Source string
	// Reason is the class of the refusal.
	Reason Reason
	// Identity is whom the peer claims to be: certified only for ReasonTooManySessions and ReasonNotAllowed, and nobody
	// where it did not come to that.
	Identity access.Identity
	// Err tells the details.
	Err error
}

// refusedError is an error that knows its Reason.
type refusedError struct {
	reason   Reason
	identity access.Identity
	err      error
}

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

func refuse(reason Reason, id access.Identity, format string, args ...any) error {
	return &refusedError{reason: reason, identity: id, err: fmt.Errorf(format, args...)}
}

// RefusalReason returns why a peer was refused, by an error of Dial or of a handshake; "" if err is no refusal.
func RefusalReason(err error) Reason {
	if r, ok := errors.AsType[*refusedError](err); ok {
		return r.reason
	}
	return ""
}

// classify finds the reason in an error of a TLS handshake. hello is what the peer offered, or nil if it did not come to that.
func classify(err error, hello *tls.ClientHelloInfo, protocols []string) *refusedError {
	if r, ok := errors.AsType[*refusedError](err); ok {
		return r
	}
	if v, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return unverified(v)
	}
	reason := ReasonHandshake
	switch {
	case isNotTLS(err):
		reason = ReasonNotTLS
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		reason = ReasonTimeout
	case isRemoteAlert(err):
		reason = ReasonPeerRefused
	case hello != nil && !offers(hello.SupportedVersions, tls.VersionTLS13):
		reason = ReasonOldTLS
	case hello != nil && !offers(hello.SupportedProtos, protocols...):
		reason = ReasonProtocol
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
		reason = ReasonIncomplete
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		// crypto/tls has no type for it; TestRefusals notices when the words change.
		reason = ReasonNoCertificate
	}
	return &refusedError{reason: reason, err: err}
}

func isNotTLS(err error) bool {
	_, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok
}

// unverified describes a certificate that crypto/tls refused; the identity is what it claims.
func unverified(v *tls.CertificateVerificationError) *refusedError {
	r := &refusedError{reason: certificateReason(v.Err, time.Now()), err: v.Err}
	if len(v.UnverifiedCertificates) > 0 {
		leaf := v.UnverifiedCertificates[0]
		if id, err := access.FromCertificate(leaf); err == nil {
			r.identity = id
		}
		r.err = fmt.Errorf("%s: %w", describe(leaf), v.Err)
	}
	return r
}

// isRemoteAlert tells an alert that the peer sent.
func isRemoteAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

func offers[T comparable](offered []T, wanted ...T) bool {
	for _, o := range offered {
		for _, w := range wanted {
			if o == w {
				return true
			}
		}
	}
	return false
}

// certificateReason finds the reason in an error of x509.
func certificateReason(err error, now time.Time) Reason {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return ReasonUnknownCA
	}
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	if !ok {
		return ReasonBadCertificate
	}
	switch invalid.Reason {
	case x509.Expired:
		if invalid.Cert != nil && now.Before(invalid.Cert.NotBefore) {
			return ReasonNotYetValid
		}
		return ReasonExpired
	case x509.IncompatibleUsage:
		return ReasonUsage
	default:
		return ReasonBadCertificate
	}
}

// refusalLog writes refusals to the log, at most 20 at once and one a second in the long run, and says how many it left out.
type refusalLog struct {
	logger  *slog.Logger
	limit   *rate.Limiter
	skipped atomic.Int64
}

func newRefusalLog(logger *slog.Logger) *refusalLog {
	return &refusalLog{logger: logger, limit: rate.NewLimiter(1, 20)}
}

func (l *refusalLog) write(r Refusal) {
	if !l.limit.Allow() {
		l.skipped.Add(1)
		return
	}
	attrs := []any{"door", r.Door, "source", r.Source, "reason", string(r.Reason), "err", r.Err}
	if r.Identity.Kind != "" {
		attrs = append(attrs, "identity", r.Identity.String())
	}
	if n := l.skipped.Swap(0); n > 0 {
		attrs = append(attrs, "refusals_not_logged", n)
	}
	l.logger.Warn("peer refused", attrs...)
}
