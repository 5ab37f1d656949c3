package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// NameID is the id of a rule's name in the kernel's tables: the first 8 bytes, little-endian, of SHA-256 of it in lower case.
func NameID(pattern string) uint64 {
	sum := sha256.Sum256([]byte(strings.ToLower(pattern)))
	return binary.LittleEndian.Uint64(sum[:8])
}

// matchName tells whether a DNS name in the form of Rule.Name is one that a rule's name stands for.
func matchName(pattern, name string) bool {
	if below, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(name) > len(below) && strings.HasSuffix(name, below)
	}
	return pattern == name
}

// normalName is a DNS name as rules have it: lower case, without a final dot.
func normalName(name string) string {
	return strings.TrimSuffix(strings.ToLower(name), ".")
}

// MatchNames returns the names of rules, as they are written there, that stand for a DNS name, each once, in the order of their first
// rules. By their ids (NameID) the name server opens the addresses that it gives out for the name. Validate sees to it that they are no
// more than MaxNames; those of several names, of which one is an alias of another, can be more.
func (p Policy) MatchNames(name string) []string {
	name = normalName(name)
	var patterns []string
	for _, r := range p.Rules {
		if r.Name != "" && r.Direction == Egress && matchName(r.Name, name) && !slices.Contains(patterns, r.Name) {
			patterns = append(patterns, r.Name)
		}
	}
	return patterns
}

// Resolves tells whether the name server answers a phone's question for a DNS name, and which rule says so, -1 for the default.
//
// The first rule decides that has a name which stands for it and which either allows anything or denies everything: one that denies
// some protocols or ports leaves the others open, so it does not hide the name. If there is none, names resolve under AllowInternet and not under
// DenyAll. There, too, rules for addresses open no names.
func (p Policy) Resolves(name string) (ok bool, rule int) {
	name = normalName(name)
	for i, r := range p.Rules {
		if r.Name == "" || r.Direction != Egress || !matchName(r.Name, name) {
			continue
		}
		if r.Action == Allow || r.Protocol == Any {
			return r.Action == Allow, i
		}
	}
	return p.Default == AllowInternet, -1
}

// checkName tells what is wrong with a rule's name.
func checkName(name string) error {
	if right := normalName(name); right != name && checkName(right) == nil {
		return fmt.Errorf("name %q: write it in lower case and without a final dot, %s: %w", name, right, errdefs.ErrInvalidArgument)
	}
	labels := strings.Split(name, ".")
	if labels[0] == "*" {
		labels = labels[1:]
	}
	if len(name) > 253 {
		return fmt.Errorf("name %.40q...: has %d characters; at most 253 are a name: %w", name, len(name), errdefs.ErrInvalidArgument)
	}
	for _, l := range labels {
		if err := checkLabel(name, l); err != nil {
			return err
		}
	}
	if n := len(labels); n > 0 && strings.Trim(labels[n-1], "0123456789") == "" {
		return fmt.Errorf("name %q: ends in a number, which no name does; an address is written as a prefix, 192.0.2.1/32: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkLabel tells what is wrong with a label, a part between the dots, of a name.
func checkLabel(name, label string) error {
	switch {
	case label == "":
		return fmt.Errorf("name %q: has an empty part; parts of a name stand between single dots: %w", name, errdefs.ErrInvalidArgument)
	case len(label) > 63:
		return fmt.Errorf("name %.80q: a part has %d characters; at most 63 are one: %w", name, len(label), errdefs.ErrInvalidArgument)
	case strings.Contains(label, "*"):
		return fmt.Errorf("name %q: * stands for all names below one, as *.example.com, or alone for every name: %w", name, errdefs.ErrInvalidArgument)
	case label[0] == '-' || label[len(label)-1] == '-':
		return fmt.Errorf("name %q: no part of a name begins or ends with -: %w", name, errdefs.ErrInvalidArgument)
	}
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			if c >= 0x80 {
				return fmt.Errorf("name %q: is not ASCII; write it as DNS has it (IDNA), as xn--bcher-kva.example for bücher.example: %w", name, errdefs.ErrInvalidArgument)
			}
			return fmt.Errorf("name %q: %q is in no name; a-z, 0-9, - and _ are: %w", name, c, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
