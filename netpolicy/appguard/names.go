package appguard

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// Name says of packages whether they may be installed. Of several that a package matches the longest counts, an exact one before all.
type Name struct {
	// Name is a package's, 1..255 bytes without a zero; with Prefix what it begins with: "com.example." for com.example.*.
	Name   string
	Prefix bool
	// Deny forbids the package's installation.
	Deny bool
}

// maxNames bounds what a list and the preinstalled packages of an image are together.
const maxNames = 1 << 16

// key is the name as the trie has it.
func (n Name) key() bpfNameKey {
	k := bpfNameKey{Bits: uint32(8 * len(n.Name))}
	copy(k.Name[:], n.Name)
	if !n.Prefix {
		k.Bits += 8
	}
	return k
}

func (n Name) check() error {
	if n.Name == "" || len(n.Name) >= len(bpfNameKey{}.Name) || strings.ContainsRune(n.Name, 0) {
		return fmt.Errorf("package name %q: it has 1 to 255 bytes, and no zero: %w", n.Name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// sorted returns names in the order of their keys. Two of the same key are an error.
func sorted(names []Name) ([]Name, error) {
	if len(names) > maxNames {
		return nil, fmt.Errorf("%d package names: at most %d have room: %w", len(names), maxNames, errdefs.ErrInvalidArgument)
	}
	all := slices.Clone(names)
	slices.SortFunc(all, func(a, b Name) int {
		if order := strings.Compare(a.Name, b.Name); order != 0 || a.Prefix == b.Prefix {
			return order
		}
		if a.Prefix {
			return -1
		}
		return 1
	})
	for i, n := range all {
		if err := n.check(); err != nil {
			return nil, err
		}
		if i > 0 && all[i-1].Name == n.Name && all[i-1].Prefix == n.Prefix {
			return nil, fmt.Errorf("package name %q is there twice: %w", n.Name, errdefs.ErrInvalidArgument)
		}
	}
	return all, nil
}

// digestOf is the digest of sorted names.
func digestOf(names []Name) digest {
	h := sha256.New()
	for _, n := range names {
		_ = binary.Write(h, binary.LittleEndian, struct { // a hash takes all
			Length       uint32
			Prefix, Deny bool
		}{uint32(len(n.Name)), n.Prefix, n.Deny})
		h.Write([]byte(n.Name))
	}
	return digest(h.Sum(nil))
}

// newTrie makes a trie of sorted names.
func newTrie(spec *ebpf.MapSpec, names []Name) (*ebpf.Map, error) {
	spec = spec.Copy()
	spec.MaxEntries = uint32(max(len(names), 1))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make a trie of %d names: %w", len(names), err)
	}
	for _, n := range names {
		var bits uint32
		if n.Deny {
			bits = uint32(bpfNameBitNAME_INSTALL_DENY)
		}
		if err := m.Put(n.key(), bits); err != nil {
			m.Close()
			return nil, fmt.Errorf("put package name %q into a trie of %d: %w", n.Name, len(names), err)
		}
	}
	return m, nil
}

// trie is one that phones share: those that have the same names.
type trie struct {
	index  uint32
	digest digest

	build sync.Once
	err   error // of build

	users int // SetPhones that wait for it, and phones that have it; guarded by tries.mu
}

// tries are the tries that there are.
type tries struct {
	names, digests *ebpf.Map
	spec           *ebpf.MapSpec

	mu       sync.Mutex
	byDigest map[digest]*trie
	byIndex  map[uint32]*trie
	leaving  map[uint32]bool // indexes that are being cleared
}

// acquire returns the trie of sorted names, which is made if there is none. Release gives it back.
func (t *tries) acquire(names []Name) (*trie, error) {
	tr, err := t.reserve(digestOf(names))
	if err != nil {
		return nil, err
	}
	tr.build.Do(func() { tr.err = t.put(tr, names) })
	if tr.err != nil {
		return nil, errors.Join(tr.err, t.release(tr))
	}
	return tr, nil
}

// reserve finds the trie of a digest, or gives it an index.
func (t *tries) reserve(d digest) (*trie, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tr := t.byDigest[d]
	if tr == nil {
		index, err := t.free()
		if err != nil {
			return nil, err
		}
		tr = &trie{index: index, digest: d}
		t.byDigest[d], t.byIndex[index] = tr, tr
	}
	tr.users++
	return tr, nil
}

func (t *tries) free() (uint32, error) {
	for index := range t.names.MaxEntries() {
		if t.byIndex[index] == nil && !t.leaving[index] {
			return index, nil
		}
	}
	return 0, fmt.Errorf("no room for another list of names: all %d are in use: %w", t.names.MaxEntries(), errdefs.ErrResourceExhausted)
}

// put makes a trie. Its digest is written last: what has one is complete.
func (t *tries) put(tr *trie, names []Name) error {
	m, err := newTrie(t.spec, names)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := t.names.Put(tr.index, m); err != nil {
		return fmt.Errorf("index %d of map names: %w", tr.index, err)
	}
	if err := t.digests.Put(tr.index, tr.digest); err != nil {
		return fmt.Errorf("index %d of map digests: %w", tr.index, err)
	}
	return nil
}

// release gives a trie back (nil is none), and takes it away with its last user; no program may be using it on this one's account.
func (t *tries) release(tr *trie) error {
	if tr == nil {
		return nil
	}
	t.mu.Lock()
	tr.users--
	last := tr.users == 0
	if last {
		delete(t.byDigest, tr.digest)
		delete(t.byIndex, tr.index)
		t.leaving[tr.index] = true
	}
	t.mu.Unlock()
	if !last {
		return nil
	}
	err := t.clear(tr.index)
	t.mu.Lock()
	delete(t.leaving, tr.index)
	t.mu.Unlock()
	return err
}

// clear takes what is at an index.
func (t *tries) clear(index uint32) error {
	if err := t.digests.Put(index, digest{}); err != nil {
		return fmt.Errorf("index %d of map digests: %w", index, err)
	}
	return pinned.DeleteKey(t.names, index)
}

// adopt takes over the tries that phones have, and clears the others. users are how many phones have an index.
func (t *tries) adopt(users map[uint32]int) error {
	there, err := pinned.Occupied(t.names)
	if err != nil {
		return err
	}
	for _, index := range there {
		var d digest
		if err := t.digests.Lookup(index, &d); err != nil {
			return fmt.Errorf("index %d of map digests: %w", index, err)
		}
		if users[index] == 0 {
			if err := t.clear(index); err != nil {
				return err
			}
			continue
		}
		tr := &trie{index: index, digest: d, users: users[index]}
		tr.build.Do(func() {})
		t.byDigest[d], t.byIndex[index] = tr, tr
	}
	return nil
}
