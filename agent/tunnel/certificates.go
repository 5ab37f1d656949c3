package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/access"
)

// CertificateFiles names the PEM files of one side.
type CertificateFiles struct {
	// Cert holds the certificate with what links it to the authority, Key its private key.
	Cert, Key string
	// CA holds the authorities whose certificates are accepted from peers.
	CA string
}

// Certificates is what one side shows and trusts. The files are looked at for every handshake and read again when one of
// them has changed; files that are broken or do not fit together leave the last good ones in force and are logged once.
// Sessions that are open keep what they began with. Certificates is safe for concurrent use and starts no goroutine.
type Certificates struct {
	files  CertificateFiles
	logger *slog.Logger

	mu     sync.Mutex
	good   *material
	broken [3]stamp // what the files were like when they were last found broken
}

// material is one state of the files. It is immutable.
type material struct {
	cert     tls.Certificate
	identity access.Identity
	roots    *x509.CertPool
	stamps   [3]stamp
	// tickets are the dialer's resumption tickets. They speak of this certificate, so they go with it.
	tickets tls.ClientSessionCache
}

// stamp tells one version of a file from another.
type stamp struct {
	inode               uint64
	size                int64
	mtime, mtimeNs      int64
	changed, changedNs  int64
	missingOrUnreadable bool
}

// LoadCertificates reads the files for the first time, when they must be good. The certificate must carry an identity
// (access.FromCertificate). Errors are of class errdefs.ErrNotFound or errdefs.ErrInvalidArgument and name the file.
func LoadCertificates(files CertificateFiles, logger *slog.Logger) (*Certificates, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := &Certificates{files: files, logger: logger}
	good, err := c.read(c.stat())
	if err != nil {
		return nil, err
	}
	c.good = good
	return c, nil
}

// Identity returns the identity of the certificate in force.
func (c *Certificates) Identity() access.Identity { return c.current().identity }

// Leaf returns the certificate in force. It must not be changed.
func (c *Certificates) Leaf() *x509.Certificate { return c.current().cert.Leaf }

// current returns what the files hold, or what they held last when they are broken.
func (c *Certificates) current() *material {
	stamps := c.stat()
	c.mu.Lock()
	defer c.mu.Unlock()
	if stamps == c.good.stamps || stamps == c.broken {
		return c.good
	}
	next, err := c.read(stamps)
	if err != nil {
		c.broken = stamps
		c.logger.Error("certificates changed and are broken; the last good ones stay in force",
			"err", err, "identity", c.good.identity.String(), "not_after", c.good.cert.Leaf.NotAfter)
		return c.good
	}
	c.good, c.broken = next, [3]stamp{}
	c.logger.Info("certificates reloaded", "identity", next.identity.String(), "not_after", next.cert.Leaf.NotAfter)
	return next
}

func (c *Certificates) paths() [3]string { return [3]string{c.files.Cert, c.files.Key, c.files.CA} }

func (c *Certificates) stat() (stamps [3]stamp) {
	for i, path := range c.paths() {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			stamps[i].missingOrUnreadable = true
			continue
		}
		stamps[i] = stamp{
			inode: st.Ino, size: st.Size,
			mtime: st.Mtim.Sec, mtimeNs: st.Mtim.Nsec,
			changed: st.Ctim.Sec, changedNs: st.Ctim.Nsec,
		}
	}
	return stamps
}

// read loads the files, whose stamps were taken before: a change during the read is seen by the next handshake.
func (c *Certificates) read(stamps [3]stamp) (*material, error) {
	var pems [3][]byte
	for i, path := range c.paths() {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("certificates: %w: %w; make test ones with: phonectl pki init and phonectl pki issue", err, errdefs.ErrNotFound)
		}
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		pems[i] = data
	}
	cert, err := tls.X509KeyPair(pems[0], pems[1])
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w: %w", c.files.Cert, c.files.Key, err, errdefs.ErrInvalidArgument)
	}
	identity, err := access.FromCertificate(cert.Leaf)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.files.Cert, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pems[2]) {
		return nil, fmt.Errorf("authorities %s: no certificate in it: %w", c.files.CA, errdefs.ErrInvalidArgument)
	}
	return &material{
		cert: cert, identity: identity, roots: roots, stamps: stamps,
		tickets: tls.NewLRUClientSessionCache(16),
	}, nil
}
