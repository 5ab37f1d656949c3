package resolver

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// State is what the agent tells the name server, as files of one directory:
//
//	upstreams    a line ADDRESS:PORT for each
//	protected    a line PREFIX CLASS for each, the class as a number
//	policy-SLOT  the policy in that slot, as policy.Format writes it
//
// The first line of each file is "phonehost-state 1 HASH", HASH being SHA-256 of what follows, in hexadecimal digits. A file is replaced
// by rename. What a file said last that was whole stays in force until there is another that is.
type State struct {
	// Upstreams are the name servers to ask; none: those of the host's resolv.conf.
	Upstreams []netip.AddrPort
	// Protected are the prefixes that answers must not lead to.
	Protected []policy.AddressClass
	// Policies by the slot that the datapath knows them by.
	Policies map[uint32]policy.Policy
}

const (
	upstreamsFile = "upstreams"
	protectedFile = "protected"
	policyPrefix  = "policy-"
	nextPrefix    = ".next-"
	stateHeader   = "phonehost-state 1 "
)

// WriteState makes the files of dir say s: those that said it already are left alone, those of slots without a policy are removed. The
// directory is made when it is not there. Anybody may read the files. There is one writer at a time.
func WriteState(dir string, s State) error {
	if err := writeState(dir, s); err != nil {
		return fmt.Errorf("write the name server's state: %w", err)
	}
	return nil
}

func writeState(dir string, s State) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string][]byte{upstreamsFile: formatUpstreams(s.Upstreams), protectedFile: formatProtected(s.Protected)}
	for slot, p := range s.Policies {
		files[policyPrefix+strconv.FormatUint(uint64(slot), 10)] = policy.Format(p)
	}
	for name, text := range files {
		if err := replace(dir, name, seal(text)); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, wanted := files[e.Name()]
		if wanted || !strings.HasPrefix(e.Name(), policyPrefix) && !strings.HasPrefix(e.Name(), nextPrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// replace puts a file in place unless it is there with this content. A crash leaves the old one or the new one.
func replace(dir, name string, content []byte) error {
	path, next := filepath.Join(dir, name), filepath.Join(dir, nextPrefix+name)
	if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, content) {
		return nil
	}
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	// The process's umask must not keep the name server from reading it.
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(next, path)
}

func seal(text []byte) []byte {
	sum := sha256.Sum256(text)
	return append([]byte(stateHeader+hex.EncodeToString(sum[:])+"\n"), text...)
}

// unseal returns what follows the first line, if that is what was written.
func unseal(content []byte) ([]byte, error) {
	first, text, _ := bytes.Cut(content, []byte("\n"))
	sum := sha256.Sum256(text)
	if string(first) != stateHeader+hex.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("the first line %.100q is not that of this content: %w", first, errdefs.ErrDataLoss)
	}
	return text, nil
}

func formatUpstreams(list []netip.AddrPort) []byte {
	var text bytes.Buffer
	for _, u := range list {
		fmt.Fprintln(&text, u)
	}
	return text.Bytes()
}

func parseUpstreams(text []byte) ([]netip.AddrPort, error) {
	var list []netip.AddrPort
	for line := range strings.Lines(string(text)) {
		u, err := netip.ParseAddrPort(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		list = append(list, u)
	}
	return list, nil
}

func formatProtected(list []policy.AddressClass) []byte {
	var text bytes.Buffer
	for _, c := range list {
		fmt.Fprintln(&text, c.Prefix, c.Class)
	}
	return text.Bytes()
}

func parseProtected(text []byte) ([]policy.AddressClass, error) {
	var list []policy.AddressClass
	for line := range strings.Lines(string(text)) {
		prefix, class, _ := strings.Cut(strings.TrimSpace(line), " ")
		p, err := netip.ParsePrefix(prefix)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		n, err := strconv.ParseUint(class, 10, 8)
		if err != nil {
			return nil, fmt.Errorf("class of %s: %w: %w", p, err, errdefs.ErrInvalidArgument)
		}
		list = append(list, policy.AddressClass{Prefix: p, Class: uint8(n)})
	}
	return list, nil
}
