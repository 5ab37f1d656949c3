package apkmake

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"time"
	"unicode/utf16"
)

// Key signs APKs. It is made of a name and protects nothing: whoever knows the name has the key.
type Key struct {
	signer      crypto.Signer
	certificate []byte
	public      []byte
}

// steady is a signer that takes no random numbers: its signatures are those of RFC 6979.
type steady struct{ *ecdsa.PrivateKey }

func (s steady) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(nil, digest, opts)
}

// NewKey returns the key that belongs to a name, with a certificate of its own.
func NewKey(name string) (*Key, error) {
	scalar := sha256.Sum256([]byte("testphone key: " + name))
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar[:])
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", name, err)
	}
	k := &Key{signer: steady{private}}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if k.certificate, err = x509.CreateCertificate(nil, template, template, private.Public(), k.signer); err != nil {
		return nil, fmt.Errorf("certificate of key %q: %w", name, err)
	}
	if k.public, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil {
		return nil, fmt.Errorf("key %q: %w", name, err)
	}
	return k, nil
}

// Digest is the SHA-256 of the key's certificate.
func (k *Key) Digest() [sha256.Size]byte { return sha256.Sum256(k.certificate) }

const (
	algorithmECDSA = 0x0201 // ECDSA with SHA-256
	schemeV2       = 0x7109871a
	endSize        = 22
)

// sign adds the APK Signing Block with a signature of scheme v2 to a zip archive without a comment.
func sign(apk []byte, keys []*Key) ([]byte, error) {
	end := len(apk) - endSize
	directory := int(binary.LittleEndian.Uint32(apk[end+16:]))
	digest := contentDigest(apk[:directory], apk[directory:end], apk[end:])
	var signers []byte
	for _, k := range keys {
		s, err := k.signer2(digest)
		if err != nil {
			return nil, err
		}
		signers = append(signers, s...)
	}
	block := signingBlock(prefix(signers))
	out := append(append([]byte{}, apk[:directory]...), block...)
	out = append(out, apk[directory:]...)
	binary.LittleEndian.PutUint32(out[len(out)-endSize+16:], uint32(directory+len(block)))
	return out, nil
}

// signingBlock puts one signature into a block.
func signingBlock(value []byte) []byte {
	pair := binary.LittleEndian.AppendUint64(nil, uint64(4+len(value)))
	pair = append(le32(pair, schemeV2), value...)
	size := uint64(len(pair) + 8 + 16)
	b := append(binary.LittleEndian.AppendUint64(nil, size), pair...)
	b = binary.LittleEndian.AppendUint64(b, size)
	return append(b, "APK Sig Block 42"...)
}

// signer2 is a signer of scheme v2.
func (k *Key) signer2(digest []byte) ([]byte, error) {
	one := append(le32(nil, algorithmECDSA), prefix(digest)...)
	signed := prefix(prefix(one))
	signed = append(signed, prefix(prefix(k.certificate))...)
	signed = append(signed, prefix(nil)...) // no attributes
	sum := sha256.Sum256(signed)
	signature, err := k.signer.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	signer := prefix(signed)
	signer = append(signer, prefix(prefix(append(le32(nil, algorithmECDSA), prefix(signature)...)))...)
	return prefix(append(signer, prefix(k.public)...)), nil
}

// prefix puts the length of b before it.
func prefix(b []byte) []byte { return append(le32(nil, uint32(len(b))), b...) }

// contentDigest is the digest of digests of pieces of 1 MiB of the sections of an APK.
func contentDigest(sections ...[]byte) []byte {
	const piece = 1 << 20
	var digests []byte
	count := uint32(0)
	for _, section := range sections {
		for len(section) > 0 {
			part := section[:min(len(section), piece)]
			section = section[len(part):]
			h := sha256.New()
			h.Write(le32([]byte{0xa5}, uint32(len(part))))
			h.Write(part)
			digests = h.Sum(digests)
			count++
		}
	}
	sum := sha256.Sum256(append(le32([]byte{0x5a}, count), digests...))
	return sum[:]
}

func utf16Of(s string) []uint16 { return utf16.Encode([]rune(s)) }
