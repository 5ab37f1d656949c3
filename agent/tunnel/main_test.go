package tunnel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority signs certificates of every kind, good and bad.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key}
}

// leaf says what a certificate holds; the zero value with uris is a good one.
type leaf struct {
	uris      []string
	notBefore time.Time
	notAfter  time.Time
	usages    []x509.ExtKeyUsage
	keyUsage  x509.KeyUsage
	isCA      bool
}

func (a *authority) issue(t testing.TB, l leaf) tls.Certificate {
	t.Helper()
	if l.notBefore.IsZero() {
		l.notBefore = time.Now().Add(-time.Hour)
	}
	if l.notAfter.IsZero() {
		l.notAfter = time.Now().Add(time.Hour)
	}
	if l.usages == nil {
		l.usages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if l.keyUsage == 0 {
		l.keyUsage = x509.KeyUsageDigitalSignature
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test leaf"},
		NotBefore: l.notBefore, NotAfter: l.notAfter, ExtKeyUsage: l.usages, KeyUsage: l.keyUsage,
		IsCA: l.isCA, BasicConstraintsValid: l.isCA,
	}
	for _, s := range l.uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// write puts a certificate, its key and the authorities into files, replacing what is there.
func write(t testing.TB, files CertificateFiles, cert tls.Certificate, trusted ...*authority) {
	t.Helper()
	keyDER, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var cas bytes.Buffer
	for _, a := range trusted {
		cas.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
	}
	replace(t, files.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	replace(t, files.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	replace(t, files.CA, cas.Bytes())
}

// replace gives a file new content by rename, so that it is another file even within one tick of the clock.
func replace(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func newFiles(t testing.TB) CertificateFiles {
	dir := t.TempDir()
	return CertificateFiles{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), CA: filepath.Join(dir, "ca.pem")}
}

// certificates returns the files of an identity, loaded.
func certificates(t testing.TB, a *authority, uri string) *Certificates {
	t.Helper()
	files := newFiles(t)
	write(t, files, a.issue(t, leaf{uris: []string{uri}}), a)
	c, err := LoadCertificates(files, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	agentURI  = "phonehost://agent/shelf-7"
	clientURI = "phonehost://client/fleet"
)

// testLogger writes to the test's output.
func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// syncBuffer is a buffer for a log that many goroutines write.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// runListener serves a Listener on a loopback port until the test ends.
func runListener(t testing.TB, c ListenerConfig) (l *Listener, addr string) {
	t.Helper()
	l, err := NewListener(c)
	if err != nil {
		t.Fatal(err)
	}
	addr, _ = run(t, l.Serve)
	return l, addr
}

// run serves something on a loopback port until the test ends or stop is called; stop waits for its end.
func run(t testing.TB, serve func(context.Context, net.Listener) error) (addr string, stop func()) {
	t.Helper()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() {
		if err := serve(ctx, port); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); served.Wait() })
	t.Cleanup(stop)
	return port.Addr().String(), stop
}

// quick are times for tests that wait for them to pass, long enough for an emulated machine to do what comes before.
var quick = Timing{KeepAlive: 200 * time.Millisecond, Timeout: 2 * time.Second, Handshake: 5 * time.Second, Drain: 5 * time.Second}

// runDoor serves an agent's door whose streams are echoed.
func runDoor(t testing.TB, c DoorConfig) (addr string, stop func()) {
	t.Helper()
	if c.Streams == nil {
		c.Streams = NewStreams()
		echo(t, c.Streams)
	}
	if c.Logger == nil {
		c.Logger = testLogger(t)
	}
	door, err := NewDoor(c)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, door.Serve)
}

// echo serves streams by sending back what they bring, until the test ends.
func echo(t testing.TB, streams *Streams) {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
			})
		}
	})
	t.Cleanup(func() { _ = streams.Close(); all.Wait() })
}

// dial makes a session with an agent's door that ends with the test.
func dial(t testing.TB, addr string, certs *Certificates, kind Kind, timing Timing) *Session {
	t.Helper()
	s, err := Dial(t.Context(), addr, DialConfig{
		Certificates: certs, Kind: kind, Peer: access.Identity{Kind: access.KindAgent}, Timing: timing, Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// roundTrip sends data through an echoing stream and compares what comes back.
func roundTrip(t testing.TB, conn net.Conn, data []byte) {
	t.Helper()
	var sent sync.WaitGroup
	sent.Go(func() {
		if _, err := conn.Write(data); err != nil {
			t.Errorf("write: %v", err)
		}
	})
	got := make([]byte, len(data))
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Errorf("read: %v", err)
	}
	sent.Wait()
	if !bytes.Equal(got, data) {
		t.Error("what came back is not what was sent")
	}
}

// pattern returns n bytes that differ from place to place.
func pattern(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i*7 + i>>8)
	}
	return data
}
