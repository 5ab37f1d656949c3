package applist

import (
	"cmp"
	"slices"
	"strings"
)

// KeySize is how many bytes a name has in the kernel's trie: the longest name of a directory, and a zero.
const KeySize = 256

// Entry is an entry of the trie.
type Entry struct {
	// Name is a package's, or what the names of several begin with ("com.example."). It has 1..KeySize-1 bytes, and no zero among them.
	Name string
	// Prefix is whether Name is the beginning.
	Prefix bool
	// Deny is the verdict on the packages that it stands for.
	Deny bool
}

// Key is what the name of a package, with zeros behind it up to KeySize, has to begin with for the entry to stand for it: Name, and for
// a whole name the zero behind it. The trie's prefix length is 8 bits for each byte of it.
func (e Entry) Key() []byte {
	key := []byte(e.Name)
	if !e.Prefix {
		key = append(key, 0)
	}
	return key
}

// Names is a list as the kernel judges names by it: a trie in which the longest match decides (BPF_MAP_TYPE_LPM_TRIE). It is the same
// for all phones that have a list and the same image. The zero value denies nothing.
type Names struct {
	// Entries are in the order of their names, and none stands for a name for which another says the same.
	Entries []Entry
	// UnlistedDeny is the verdict on names that no entry stands for.
	UnlistedDeny bool
}

// Compile makes the Names of a list that Validate has passed, for phones whose image brings the given packages.
func Compile(l List, preinstalled map[string]bool) Names {
	if !l.Enabled {
		return Names{}
	}
	n := Names{UnlistedDeny: l.Mode == Allow}
	for _, e := range l.Packages {
		name, prefix := pattern(e)
		if !prefix {
			name = e
		}
		n.Entries = append(n.Entries, Entry{Name: name, Prefix: prefix, Deny: l.Mode == Deny})
	}
	if l.Mode == Allow {
		for name, is := range preinstalled {
			// What cannot be the name of a directory is never asked for.
			if is && name != "" && len(name) < KeySize && !strings.Contains(name, "\x00") {
				n.Entries = append(n.Entries, Entry{Name: name})
			}
		}
	}
	n.Entries = reduce(n.Entries)
	return n
}

// reduce sorts entries that all have the same verdict, and leaves out those for which another stands. Names that begin with another
// follow it without a gap, so the last prefix that was kept is the one to compare with.
func reduce(entries []Entry) []Entry {
	slices.SortFunc(entries, func(a, b Entry) int {
		if a.Prefix != b.Prefix && a.Name == b.Name {
			if a.Prefix {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	kept := entries[:0]
	var last string // prefix
	for _, e := range entries {
		if last != "" && strings.HasPrefix(e.Name, last) || len(kept) > 0 && e == kept[len(kept)-1] {
			continue
		}
		if e.Prefix {
			last = e.Name
		}
		kept = append(kept, e)
	}
	return kept
}

// Judge is the kernel's verdict on a name, of 1..KeySize-1 bytes without a zero: that of the entry with the longest key.
func (n Names) Judge(pkg string) (deny bool) {
	key := string(append([]byte(pkg), make([]byte, max(0, KeySize-len(pkg)))...))
	deny, longest := n.UnlistedDeny, 0
	for _, e := range n.Entries {
		if k := e.Key(); len(k) > longest && strings.HasPrefix(key, string(k)) {
			deny, longest = e.Deny, len(k)
		}
	}
	return deny
}
