// Package pki makes certificates for trying phonehost out and for shelves of phones without an authority of their own: one
// ECDSA P-256 authority in a directory, and certificates for agents and clients signed by it. A fleet that has an authority
// issues from there; what a certificate must hold is in access.FromCertificate.
//
// A directory holds:
//
//	ca.pem, ca-key.pem                  the authority
//	agent-NAME.pem, agent-NAME-key.pem  an agent's certificate and key
//	client-NAME.pem, client-NAME-key.pem
//
// Keys have mode 0600, certificates 0644, the directory 0700 if it is made here. Files appear whole or not at all, and none
// is replaced unless that is asked for. The package starts no goroutines and keeps no state.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
)

// Files names what Init or Issue wrote.
type Files struct {
	// Cert is the certificate's path, Key its private key's.
	Cert, Key string
}

// CAOptions says what authority to make.
type CAOptions struct {
	// Name is the authority's common name; empty means "phonehost test CA".
	Name string
	// Lifetime is how long it is good for; 0 means ten years.
	Lifetime time.Duration
	// Force replaces an authority that is there. Every certificate that it issued is worth nothing then.
	Force bool
}

// IssueOptions says what certificate to make.
type IssueOptions struct {
	// DNS and IPs are further names, which phonehost itself does not look at.
	DNS []string
	IPs []net.IP
	// Lifetime is how long it is good for; 0 means one year. It never exceeds the authority's. A negative one makes a
	// certificate that has expired that long ago.
	Lifetime time.Duration
	// NotBefore is when it becomes good; the zero value means an hour ago, for hosts whose clocks differ.
	NotBefore time.Time
	// Force replaces a certificate that is there.
	Force bool
}

const (
	defaultCALifetime = 10 * 365 * 24 * time.Hour
	defaultLifetime   = 365 * 24 * time.Hour
	clockSkew         = time.Hour
)

// Init makes an authority in dir, and dir itself if it is missing. The error is of class errdefs.ErrAlreadyExists if an
// authority is there and not to be replaced.
func Init(dir string, o CAOptions) (Files, error) {
	if o.Name == "" {
		o.Name = "phonehost test CA"
	}
	if o.Lifetime == 0 {
		o.Lifetime = defaultCALifetime
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Files{}, fmt.Errorf("make authority: %w", err)
	}
	key, serial, err := newKey()
	if err != nil {
		return Files{}, fmt.Errorf("make authority: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: o.Name},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(o.Lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Files{}, fmt.Errorf("make authority: %w", err)
	}
	files := Files{Cert: filepath.Join(dir, "ca.pem"), Key: filepath.Join(dir, "ca-key.pem")}
	if err := files.write(der, key, o.Force); err != nil {
		return Files{}, fmt.Errorf("make authority: %w", err)
	}
	return files, nil
}

// Issue makes a certificate of an identity, good for both sides of TLS, with the authority in dir, into dir. Errors are of
// class errdefs.ErrNotFound without an authority, errdefs.ErrAlreadyExists if the identity has one and it is not to be
// replaced, errdefs.ErrInvalidArgument for an identity that is neither an agent nor a client.
func Issue(dir string, id access.Identity, o IssueOptions) (Files, error) {
	if _, err := access.ParseIdentity(id.String()); err != nil {
		return Files{}, fmt.Errorf("issue certificate: %w", err)
	}
	ca, caKey, err := load(dir)
	if err != nil {
		return Files{}, fmt.Errorf("issue certificate of %s: %w", id, err)
	}
	key, serial, err := newKey()
	if err != nil {
		return Files{}, fmt.Errorf("issue certificate of %s: %w", id, err)
	}
	notBefore, notAfter := o.period(ca)
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id.String()},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{id.URI()},
		DNSNames:     o.DNS,
		IPAddresses:  o.IPs,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return Files{}, fmt.Errorf("issue certificate of %s: %w", id, err)
	}
	base := filepath.Join(dir, string(id.Kind)+"-"+id.Name)
	files := Files{Cert: base + ".pem", Key: base + "-key.pem"}
	if err := files.write(der, key, o.Force); err != nil {
		return Files{}, fmt.Errorf("issue certificate of %s: %w", id, err)
	}
	return files, nil
}

// period returns the time in which the certificate is to be good.
func (o IssueOptions) period(ca *x509.Certificate) (notBefore, notAfter time.Time) {
	now := time.Now()
	notBefore, notAfter = now.Add(-clockSkew), now.Add(defaultLifetime)
	if o.Lifetime != 0 {
		notAfter = now.Add(o.Lifetime)
	}
	if !o.NotBefore.IsZero() {
		notBefore = o.NotBefore
	} else if notBefore.After(notAfter) {
		notBefore = notAfter.Add(-clockSkew)
	}
	if notAfter.After(ca.NotAfter) {
		notAfter = ca.NotAfter
	}
	return notBefore, notAfter
}

// newKey makes a key and a serial number for its certificate.
func newKey() (*ecdsa.PrivateKey, *big.Int, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	return key, serial, nil
}

// load reads the authority of a directory.
func load(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certDER, err := readPEM(filepath.Join(dir, "ca.pem"), "CERTIFICATE")
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := readPEM(filepath.Join(dir, "ca-key.pem"), "PRIVATE KEY")
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, nil, fmt.Errorf("authority %s: %w: %w", dir, err, errdefs.ErrInvalidArgument)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, nil, fmt.Errorf("key of authority %s: %w: %w", dir, err, errdefs.ErrInvalidArgument)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("authority %s: key and certificate do not fit together: %w", dir, errdefs.ErrInvalidArgument)
	}
	return cert, key, nil
}

func readPEM(path, kind string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no authority: %w: %w; make one with: phonectl pki init", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s: holds no %s: %w", path, kind, errdefs.ErrInvalidArgument)
	}
	return block.Bytes, nil
}

// write puts key and certificate in place, the key first: a crash between the two leaves a pair that does not fit, which
// every reader refuses, and force mends.
func (f Files) write(der []byte, key *ecdsa.PrivateKey, force bool) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if !force {
		for _, path := range []string{f.Key, f.Cert} {
			if _, err := os.Lstat(path); err == nil {
				return fmt.Errorf("%s is there; replace it with --force: %w", path, errdefs.ErrAlreadyExists)
			}
		}
	}
	if err := writeFile(f.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600, force); err != nil {
		return err
	}
	return writeFile(f.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644, force)
}

// writeFile makes a file appear with all of its content. Without force it never replaces one, however it got there.
func writeFile(path string, data []byte, mode fs.FileMode, force bool) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), ".pki-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeIfThere(temp.Name())) }()
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	if force {
		return os.Rename(temp.Name(), path)
	}
	err = os.Link(temp.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there; replace it with --force: %w", path, errdefs.ErrAlreadyExists)
	}
	return err
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
