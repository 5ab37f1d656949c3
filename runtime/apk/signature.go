package apk

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
)

// Scheme is a way of signing an APK.
type Scheme string

// The schemes, from the oldest. Their order as texts is their age.
const (
	// SchemeV1 is JAR signing: META-INF/*.RSA, .DSA, .EC.
	SchemeV1 Scheme = "v1"
	// SchemeV2 is that of Android 7.
	SchemeV2 Scheme = "v2"
	// SchemeV3 is that of Android 9, which knows the rotation of keys.
	SchemeV3 Scheme = "v3"
	// SchemeV31 is that of Android 13, whose rotation is for newer releases only.
	SchemeV31 Scheme = "v3.1"
)

// Digest is the SHA-256 of a certificate in DER.
type Digest [sha256.Size]byte

// String is the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero says that the certificate could not be read.
func (d Digest) IsZero() bool { return d == Digest{} }

func (d Digest) compare(other Digest) int { return bytes.Compare(d[:], other[:]) }

// Signer is one signature of an APK.
type Signer struct {
	Scheme Scheme
	// Certificate is that of the key that signed; zero for a v1 signature whose certificate cannot be read.
	Certificate Digest
	// MinSDK and MaxSDK are the releases that a signer of v3 or v3.1 is for; 0 with other schemes.
	MinSDK, MaxSDK uint32
}

const (
	blockMagic  = "APK Sig Block 42"
	blockFooter = 8 + len(blockMagic)

	maxBlock       = 16 << 20
	maxPairs       = 1024
	maxSchemeBlock = 1 << 20
	maxSigners     = 64

	maxJARSignatures = 16
	maxJARSignature  = 256 << 10
)

// blockSchemes are the entries of the APK Signing Block that are read.
var blockSchemes = map[uint32]Scheme{0x7109871a: SchemeV2, 0xf05368c0: SchemeV3, 0x1b93ad61: SchemeV31}

// readSigners finds the signatures of all schemes, the oldest first.
func readSigners(a *archive) ([]Signer, error) {
	jar, err := readJAR(a)
	if err != nil {
		return nil, err
	}
	block, err := readBlock(a)
	if err != nil {
		return nil, err
	}
	return append(jar, block...), nil
}

// readBlock reads the APK Signing Block, if there is one: it ends where the zip's directory begins.
func readBlock(a *archive) ([]Signer, error) {
	footer := make([]byte, blockFooter)
	at := a.directory - int64(len(footer))
	if at < 0 {
		return nil, nil
	}
	if err := a.readAt(footer, at); err != nil {
		return nil, err
	}
	if string(footer[8:]) != blockMagic {
		return nil, nil
	}
	size := binary.LittleEndian.Uint64(footer)
	if size < uint64(blockFooter) || size > maxBlock || int64(size)+8 > a.directory {
		return nil, invalid("the APK Signing Block is damaged: it says that it has %d bytes", size)
	}
	start := a.directory - int64(size) - 8
	var head [8]byte
	if err := a.readAt(head[:], start); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint64(head[:]) != size {
		return nil, invalid("the APK Signing Block is damaged: its two sizes differ")
	}
	return readPairs(a, start+8, at)
}

// readPairs goes through the entries of the block.
func readPairs(a *archive, from, to int64) ([]Signer, error) {
	var list []Signer
	seen := map[Scheme]bool{}
	for range maxPairs {
		if from == to {
			slices.SortStableFunc(list, func(a, b Signer) int { return strings.Compare(string(a.Scheme), string(b.Scheme)) })
			return list, nil
		}
		var pair [12]byte
		if from+int64(len(pair)) > to {
			return nil, invalid("the APK Signing Block is damaged: an entry's header is cut off")
		}
		if err := a.readAt(pair[:], from); err != nil {
			return nil, err
		}
		size, id := binary.LittleEndian.Uint64(pair[:]), binary.LittleEndian.Uint32(pair[8:])
		if size < 4 || size > uint64(to-from-8) {
			return nil, invalid("the APK Signing Block is damaged: entry 0x%08x says that it has %d bytes", id, size)
		}
		if scheme, ok := blockSchemes[id]; ok && !seen[scheme] { // Android takes the first
			seen[scheme] = true
			if size > maxSchemeBlock {
				return nil, invalid("the signature of scheme %s has %d bytes, more than %d", scheme, size, maxSchemeBlock)
			}
			b := make([]byte, size-4)
			if err := a.readAt(b, from+12); err != nil {
				return nil, err
			}
			signers, ok := parseSigners(scheme, b)
			if !ok {
				return nil, invalid("the APK Signing Block is damaged: the signature of scheme %s is not in order", scheme)
			}
			list = append(list, signers...)
		}
		from += 8 + int64(size)
	}
	return nil, invalid("the APK Signing Block has more than %d entries", maxPairs)
}

// prefixed takes a piece off b that has its length in 32 bits before it.
func prefixed(b []byte) (piece, rest []byte, ok bool) {
	if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) > uint64(len(b)-4) {
		return nil, nil, false
	}
	n := binary.LittleEndian.Uint32(b)
	return b[4 : 4+n], b[4+n:], true
}

// parseSigners reads the entry of scheme 2, 3 or 3.1: a list of signers, each with its signed data first.
func parseSigners(scheme Scheme, b []byte) ([]Signer, bool) {
	signers, _, ok := prefixed(b)
	if !ok || len(signers) == 0 {
		return nil, false
	}
	var list []Signer
	for len(signers) > 0 {
		var signer []byte
		if signer, signers, ok = prefixed(signers); !ok || len(list) == maxSigners {
			return nil, false
		}
		s := Signer{Scheme: scheme}
		signed, after, ok := prefixed(signer)
		if !ok {
			return nil, false
		}
		certificate, ok := firstCertificate(signed)
		if !ok {
			return nil, false
		}
		s.Certificate = sha256.Sum256(certificate)
		if scheme != SchemeV2 {
			if len(after) < 8 {
				return nil, false
			}
			s.MinSDK, s.MaxSDK = binary.LittleEndian.Uint32(after), binary.LittleEndian.Uint32(after[4:])
		}
		list = append(list, s)
	}
	return list, true
}

// firstCertificate returns the signer's own certificate from the signed data, where it comes after the digests.
func firstCertificate(signed []byte) ([]byte, bool) {
	_, rest, ok := prefixed(signed)
	if !ok {
		return nil, false
	}
	certificates, _, ok := prefixed(rest)
	if !ok {
		return nil, false
	}
	certificate, _, ok := prefixed(certificates)
	return certificate, ok && len(certificate) > 0
}

// isSignatureFile says whether an entry of the archive is a JAR signature.
func isSignatureFile(name string) bool {
	upper := strings.ToUpper(name)
	base, ok := strings.CutPrefix(upper, "META-INF/")
	if !ok || strings.Contains(base, "/") {
		return false
	}
	return strings.HasSuffix(base, ".RSA") || strings.HasSuffix(base, ".DSA") || strings.HasSuffix(base, ".EC")
}

// readJAR reads the JAR signatures, in the order of their names.
func readJAR(a *archive) ([]Signer, error) {
	var names []string
	for name := range a.files {
		if isSignatureFile(name) {
			names = append(names, name)
		}
	}
	if len(names) > maxJARSignatures {
		return nil, invalid("META-INF has %d signatures, more than %d", len(names), maxJARSignatures)
	}
	slices.Sort(names)
	var list []Signer
	for _, name := range names {
		b, err := a.read(a.files[name], maxJARSignature)
		if err != nil {
			return nil, err
		}
		s := Signer{Scheme: SchemeV1}
		if certificate := signerCertificate(b); certificate != nil {
			s.Certificate = sha256.Sum256(certificate)
		}
		list = append(list, s)
	}
	return list, nil
}

// The parts of a PKCS #7 SignedData (RFC 2315, section 9) that say whose it is.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	signedData struct {
		Version      int
		Digests      asn1.RawValue
		Content      asn1.RawValue
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		CRLs         asn1.RawValue `asn1:"optional,tag:1"`
		Signers      []signerInfo  `asn1:"set"`
	}
	signerInfo struct {
		Version int
		Issuer  issuerAndSerial
		Digest  pkix.AlgorithmIdentifier
		Rest    asn1.RawValue `asn1:"optional"`
	}
	issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	certificate struct {
		Raw asn1.RawContent
		TBS struct {
			Version   int `asn1:"optional,explicit,default:0,tag:0"`
			Serial    *big.Int
			Algorithm asn1.RawValue
			Issuer    asn1.RawValue
			Rest      asn1.RawValue
		}
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
)

// signerCertificate returns the certificate, in DER, of the first signer of a PKCS #7 signature; nil if it cannot be found. Only names and
// serial numbers are compared, nothing is verified.
func signerCertificate(b []byte) []byte {
	var info contentInfo
	if _, err := asn1.Unmarshal(b, &info); err != nil {
		return nil
	}
	var signed signedData
	if _, err := asn1.Unmarshal(info.Content.Bytes, &signed); err != nil || len(signed.Signers) == 0 {
		return nil
	}
	want := signed.Signers[0].Issuer
	for rest := signed.Certificates.Bytes; len(rest) > 0; {
		var raw asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &raw); err != nil {
			return nil
		}
		var c certificate
		if _, err := asn1.Unmarshal(raw.FullBytes, &c); err != nil {
			continue
		}
		if want.Serial != nil && c.TBS.Serial != nil && want.Serial.Cmp(c.TBS.Serial) == 0 && bytes.Equal(want.Issuer.FullBytes, c.TBS.Issuer.FullBytes) {
			return raw.FullBytes
		}
	}
	return nil
}
