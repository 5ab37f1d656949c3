package tunnel

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
)

func TestLoadCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	tests := []struct {
		name  string
		spoil func(t *testing.T, files *CertificateFiles)
		class error
	}{
		{"good", func(*testing.T, *CertificateFiles) {}, nil},
		{"no certificate", func(_ *testing.T, f *CertificateFiles) { f.Cert += ".none" }, errdefs.ErrNotFound},
		{"no key", func(_ *testing.T, f *CertificateFiles) { f.Key += ".none" }, errdefs.ErrNotFound},
		{"no authority", func(_ *testing.T, f *CertificateFiles) { f.CA += ".none" }, errdefs.ErrNotFound},
		{"rubbish for a certificate", func(t *testing.T, f *CertificateFiles) { replace(t, f.Cert, []byte("rubbish")) }, errdefs.ErrInvalidArgument},
		{"rubbish for an authority", func(t *testing.T, f *CertificateFiles) { replace(t, f.CA, []byte("rubbish")) }, errdefs.ErrInvalidArgument},
		{"another's key", func(t *testing.T, f *CertificateFiles) {
			other := newFiles(t)
			write(t, other, ca.issue(t, leaf{uris: []string{agentURI}}), ca)
			f.Key = other.Key
		}, errdefs.ErrInvalidArgument},
		{"no identity", func(t *testing.T, f *CertificateFiles) { write(t, *f, ca.issue(t, leaf{}), ca) }, errdefs.ErrInvalidArgument},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			files := newFiles(t)
			write(t, files, ca.issue(t, leaf{uris: []string{agentURI}}), ca)
			tt.spoil(t, &files)
			c, err := LoadCertificates(files, nil)
			if tt.class != nil {
				if !errors.Is(err, tt.class) {
					t.Errorf("LoadCertificates = %v, want %v", err, tt.class)
				}
				return
			}
			if err != nil || c.Identity().String() != "agent/shelf-7" {
				t.Errorf("LoadCertificates = %v, %v", c, err)
			}
		})
	}
}

// TestReload changes the files under a door: the next handshake sees them; broken ones leave the last good in force, with one
// line in the log; a session that is open does not notice.
func TestReload(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	files := newFiles(t)
	write(t, files, ca.issue(t, leaf{uris: []string{agentURI}}), ca)
	var log syncBuffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	certs, err := LoadCertificates(files, logger)
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := runDoor(t, DoorConfig{Certificates: certs})
	fleet := certificates(t, ca, clientURI)
	old := dial(t, addr, fleet, Control, Timing{})
	shown := func() time.Time { return dial(t, addr, fleet, Control, Timing{}).info.PeerExpires }

	later := time.Now().Add(2 * time.Hour).Truncate(time.Second)
	write(t, files, ca.issue(t, leaf{uris: []string{agentURI}, notAfter: later}), ca)
	// A session may resume once with what its ticket speaks of; a fresh client has no ticket.
	fleet = certificates(t, ca, clientURI)
	if got := shown(); !got.Equal(later) {
		t.Errorf("after a change the door shows a certificate until %v, want %v", got, later)
	}

	replace(t, files.Key, []byte("rubbish"))
	for range 3 {
		fleet = certificates(t, ca, clientURI)
		if got := shown(); !got.Equal(later) {
			t.Errorf("with a broken key the door shows a certificate until %v, want %v", got, later)
		}
	}
	if n := strings.Count(log.String(), "certificates changed and are broken"); n != 1 {
		t.Errorf("the log tells %d times that the files are broken, want once:\n%s", n, log.String())
	}
	if err := os.Remove(files.CA); err != nil {
		t.Fatal(err)
	}
	shown()

	latest := later.Add(time.Hour)
	write(t, files, ca.issue(t, leaf{uris: []string{agentURI}, notAfter: latest}), ca)
	fleet = certificates(t, ca, clientURI)
	if got := shown(); !got.Equal(latest) || !certs.Leaf().NotAfter.Equal(latest) {
		t.Errorf("mended, the door shows a certificate until %v, want %v", got, latest)
	}
	stream, err := old.Open()
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, stream, []byte("still here"))
}

// TestResumption resumes TLS sessions, and refuses one that is resumed when its authority is no longer trusted.
func TestResumption(t *testing.T) {
	t.Parallel()
	ours, next := newAuthority(t), newAuthority(t)
	files := newFiles(t)
	server := ours.issue(t, leaf{uris: []string{agentURI}})
	write(t, files, server, ours, next)
	certs, err := LoadCertificates(files, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	refused := make(refusals, 1)
	addr, _ := runDoor(t, DoorConfig{Certificates: certs, Observer: refused.observer()})
	fleet := certificates(t, ours, clientURI)
	if dial(t, addr, fleet, Control, Timing{}).conn.ConnectionState().DidResume {
		t.Fatal("the first session was resumed")
	}
	if !dial(t, addr, fleet, Control, Timing{}).conn.ConnectionState().DidResume {
		t.Fatal("the second session was not resumed")
	}
	write(t, files, server, next) // the door no longer trusts the client's authority
	_, err = Dial(t.Context(), addr, DialConfig{Certificates: fleet, Kind: Control, Peer: access.Identity{Kind: access.KindAgent}})
	if !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("Dial = %v, want permission denied", err)
	}
	if r := <-refused; r.Reason != ReasonUnknownCA {
		t.Errorf("refused %+v, want an unknown authority", r)
	}
}

// TestNewCertificateIsShown changes the client's files: its ticket speaks of the old certificate and must not be used.
func TestNewCertificateIsShown(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	opened := make(chan SessionInfo, 2)
	addr, _ := runDoor(t, DoorConfig{
		Certificates: certificates(t, ca, agentURI), Observer: Observer{SessionOpened: func(s SessionInfo) { opened <- s }},
	})
	files := newFiles(t)
	write(t, files, ca.issue(t, leaf{uris: []string{clientURI}}), ca)
	certs, err := LoadCertificates(files, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	dial(t, addr, certs, Control, Timing{})
	write(t, files, ca.issue(t, leaf{uris: []string{"phonehost://client/other"}}), ca)
	dial(t, addr, certs, Control, Timing{})
	for _, want := range []string{"client/fleet", "client/other"} {
		if got := (<-opened).Identity.String(); got != want {
			t.Errorf("the door saw %s, want %s", got, want)
		}
	}
}
