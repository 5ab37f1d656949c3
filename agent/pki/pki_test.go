package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/pki"
)

var shelf = access.Identity{Kind: access.KindAgent, Name: "shelf-7"}

func authority(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "pki")
	if _, err := pki.Init(dir, pki.CAOptions{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, files pki.Files) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func TestIssue(t *testing.T) {
	t.Parallel()
	dir := authority(t)
	files, err := pki.Issue(dir, shelf, pki.IssueOptions{DNS: []string{"shelf-7.example.com"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	if files.Cert != filepath.Join(dir, "agent-shelf-7.pem") || files.Key != filepath.Join(dir, "agent-shelf-7-key.pem") {
		t.Errorf("files = %+v", files)
	}
	cert := read(t, files)
	if id, err := access.FromCertificate(cert); err != nil || id.String() != "agent/shelf-7" {
		t.Errorf("identity = %v, %v", id, err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("verify for usage %v: %v", usage, err)
		}
	}
	for _, host := range []string{"shelf-7.example.com", "127.0.0.1"} {
		if err := cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if left := time.Until(cert.NotAfter); left < 364*24*time.Hour || left > 366*24*time.Hour {
		t.Errorf("good for %v, want a year", left)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	dir := authority(t)
	if _, err := pki.Issue(dir, shelf, pki.IssueOptions{}); err != nil {
		t.Fatal(err)
	}
	want := map[string]os.FileMode{
		"": 0o700, "ca.pem": 0o644, "ca-key.pem": 0o600, "agent-shelf-7.pem": 0o644, "agent-shelf-7-key.pem": 0o600,
	}
	for name, mode := range want {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, %v; want %v", name, info.Mode().Perm(), err, mode)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(want)-1 {
		t.Errorf("the directory holds %d files (%v), want %d: nothing temporary stays", len(entries), err, len(want)-1)
	}
}

func TestNothingIsReplaced(t *testing.T) {
	t.Parallel()
	dir := authority(t)
	first, err := pki.Issue(dir, shelf, pki.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	serial := read(t, first).SerialNumber
	if _, err := pki.Init(dir, pki.CAOptions{}); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second Init = %v", err)
	}
	if _, err := pki.Issue(dir, shelf, pki.IssueOptions{}); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second Issue = %v", err)
	}
	if got := read(t, first).SerialNumber; got.Cmp(serial) != 0 {
		t.Error("a refused Issue changed the certificate")
	}
	// A certificate without its key is somebody's too.
	if err := os.Remove(first.Key); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Issue(dir, shelf, pki.IssueOptions{}); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("Issue over a certificate without a key = %v", err)
	}
	if _, err := pki.Issue(dir, shelf, pki.IssueOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, first).SerialNumber; got.Cmp(serial) == 0 {
		t.Error("Issue with force left the old certificate")
	}
	if _, err := pki.Init(dir, pki.CAOptions{Force: true}); err != nil {
		t.Error(err)
	}
}

func TestPeriods(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := pki.Init(dir, pki.CAOptions{Lifetime: 48 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tests := []struct {
		name      string
		o         pki.IssueOptions
		notBefore time.Time
		notAfter  time.Time
	}{
		{"no longer than the authority", pki.IssueOptions{}, now.Add(-time.Hour), now.Add(48 * time.Hour)},
		{"shorter", pki.IssueOptions{Lifetime: time.Hour}, now.Add(-time.Hour), now.Add(time.Hour)},
		{"expired", pki.IssueOptions{Lifetime: -3 * time.Hour}, now.Add(-4 * time.Hour), now.Add(-3 * time.Hour)},
		{"later", pki.IssueOptions{NotBefore: now.Add(time.Hour)}, now.Add(time.Hour), now.Add(48 * time.Hour)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Force = true
			files, err := pki.Issue(dir, shelf, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			cert := read(t, files)
			if d := cert.NotBefore.Sub(tt.notBefore).Abs(); d > time.Minute {
				t.Errorf("good from %v, want %v", cert.NotBefore, tt.notBefore)
			}
			if d := cert.NotAfter.Sub(tt.notAfter).Abs(); d > time.Minute {
				t.Errorf("good until %v, want %v", cert.NotAfter, tt.notAfter)
			}
		})
	}
}

func TestIssueErrors(t *testing.T) {
	t.Parallel()
	dir := authority(t)
	for _, id := range []access.Identity{{}, {Kind: access.KindUID}, {Kind: access.KindAgent, Name: "Bad Name"}, {Kind: access.KindClient, Name: "../x"}} {
		if _, err := pki.Issue(dir, id, pki.IssueOptions{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("Issue of %v = %v", id, err)
		}
	}
	if _, err := pki.Issue(t.TempDir(), shelf, pki.IssueOptions{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Issue without an authority = %v", err)
	}
	other := authority(t)
	for _, name := range []string{"ca.pem", "ca-key.pem"} {
		data, err := os.ReadFile(filepath.Join(other, name))
		if err != nil {
			t.Fatal(err)
		}
		mixed := authority(t)
		if err := os.WriteFile(filepath.Join(mixed, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.Issue(mixed, shelf, pki.IssueOptions{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("Issue with another authority's %s = %v", name, err)
		}
		if err := os.WriteFile(filepath.Join(mixed, name), []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.Issue(mixed, shelf, pki.IssueOptions{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("Issue with rubbish for %s = %v", name, err)
		}
	}
}
