package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// rules are the State as it was read last. They are immutable; what reads them anew makes others.
type rules struct {
	upstreams []netip.AddrPort
	// protected is made by policy.CompileAddresses; nil while nobody has said what is: then nothing can be answered.
	protected []policy.Cell
	policies  map[uint32]policy.Policy
	// files tells of each file that was read which one it was.
	files map[string]os.FileInfo
}

// read returns what the files of dir say, with what r has of those that are missing or broken.
func (r *rules) read(dir string, log *slog.Logger) *rules {
	next := &rules{upstreams: r.upstreams, protected: r.protected, policies: maps.Clone(r.policies), files: map[string]os.FileInfo{}}
	if next.policies == nil {
		next.policies = map[uint32]policy.Policy{}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		log.Error("state cannot be read; what was read last stays in force", "error", err)
		return r
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, nextPrefix) {
			continue
		}
		info, err := e.Info()
		if err == nil && sameFile(r.files[name], info) {
			next.files[name] = info
			continue
		}
		if err == nil {
			err = next.load(dir, name)
		}
		if err != nil {
			log.Error("a file of the state cannot be read; what it said last stays in force", "file", name, "error", err)
			continue
		}
		next.files[name] = info
	}
	return next
}

// sameFile tells that a file was not replaced since it was read.
func sameFile(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// load reads one file into r, or changes nothing.
func (r *rules) load(dir, name string) error {
	content, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) { // removed since it was listed
		return nil
	}
	if err != nil {
		return err
	}
	text, err := unseal(content)
	if err != nil {
		return err
	}
	switch {
	case name == upstreamsFile:
		list, err := parseUpstreams(text)
		if err != nil {
			return err
		}
		r.upstreams = list
	case name == protectedFile:
		list, err := parseProtected(text)
		if err != nil {
			return err
		}
		r.protected = policy.CompileAddresses(list)
	case strings.HasPrefix(name, policyPrefix):
		slot, err := strconv.ParseUint(strings.TrimPrefix(name, policyPrefix), 10, 32)
		if err != nil {
			return fmt.Errorf("slot: %w", err)
		}
		p, err := policy.Parse(text)
		if err != nil {
			return err
		}
		r.policies[uint32(slot)] = p
	}
	return nil
}

// policyOf returns the policy of a slot; ok is false while that, or what is protected, is not known.
func (r *rules) policyOf(slot uint32) (p policy.Policy, ok bool) {
	p, ok = r.policies[slot]
	return p, ok && r.protected != nil
}

// maxCandidates bounds how many rules are tried for one protected address.
const maxCandidates = 16

// reachable tells whether a policy lets its phones begin anything to an address: one that is not protected, or one that a rule with a
// prefix opens for some protocol and port.
func (r *rules) reachable(p policy.Policy, a netip.Addr) bool {
	_, bits := policy.LookupAddress(r.protected, a)
	if bits < 0 {
		return true
	}
	tried := 0
	for _, rule := range p.Rules {
		if rule.Action != policy.Allow || rule.Direction != policy.Egress || !rule.CIDR.IsValid() || !rule.CIDR.Contains(a) {
			continue
		}
		if tried++; tried > maxCandidates {
			break
		}
		for _, q := range examples(rule) {
			q.Peer, q.ProtectedBits = a, bits
			if p.Evaluate(q).Allow {
				return true
			}
		}
	}
	return false
}

// examples are flows that a rule matches: of each of its protocols, with the first and the last port of each of its ranges.
func examples(rule policy.Rule) []policy.Query {
	protocols := []policy.Protocol{rule.Protocol}
	if rule.Protocol == policy.Any {
		protocols = []policy.Protocol{policy.TCP, policy.UDP, policy.ICMP}
	}
	var queries []policy.Query
	for _, protocol := range protocols {
		if protocol == policy.ICMP || len(rule.Ports) == 0 {
			queries = append(queries, policy.Query{Direction: policy.Egress, Protocol: protocol, Port: 443})
			continue
		}
		for _, ports := range rule.Ports[:min(len(rule.Ports), maxCandidates)] {
			for _, port := range []uint16{ports.First, ports.Last} {
				queries = append(queries, policy.Query{Direction: policy.Egress, Protocol: protocol, Port: port})
			}
		}
	}
	return queries
}
