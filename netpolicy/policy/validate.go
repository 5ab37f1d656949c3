package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

// MaxPorts is how many ranges of ports a rule may have.
const MaxPorts = 16

// Validate tells what is wrong with a policy, and what would be right: of the first rule that is wrong, counted from 1. The error is of
// class errdefs.ErrInvalidArgument.
func (p Policy) Validate() error {
	if p.Default > DenyAll {
		return fmt.Errorf("default %d: want %d (allow-internet) or %d (deny-all): %w", p.Default, AllowInternet, DenyAll, errdefs.ErrInvalidArgument)
	}
	if len(p.Rules) > MaxRules {
		return fmt.Errorf("the policy has %d rules; it may have %d: %w", len(p.Rules), MaxRules, errdefs.ErrInvalidArgument)
	}
	for i, r := range p.Rules {
		if err := r.validate(); err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	if i, err := p.validateNames(); err != nil {
		return fmt.Errorf("rule %d: %w", i+1, err)
	}
	return nil
}

func (r Rule) validate() error {
	switch {
	case r.Action > Allow:
		return fmt.Errorf("action %d: want %d (deny) or %d (allow): %w", r.Action, Deny, Allow, errdefs.ErrInvalidArgument)
	case r.Direction > Ingress:
		return fmt.Errorf("direction %d: want %d (egress) or %d (ingress): %w", r.Direction, Egress, Ingress, errdefs.ErrInvalidArgument)
	case r.Protocol > ICMP:
		return fmt.Errorf("protocol %d: want %d (any), %d (tcp), %d (udp) or %d (icmp): %w", r.Protocol, Any, TCP, UDP, ICMP, errdefs.ErrInvalidArgument)
	}
	if err := r.validatePeer(); err != nil {
		return err
	}
	return r.validatePorts()
}

func (r Rule) validatePeer() error {
	if r.Name == "" {
		return checkCIDR(r.CIDR)
	}
	if r.CIDR != (netip.Prefix{}) {
		return fmt.Errorf("has a name, %s, and a prefix, %s: make two rules of it: %w", r.Name, r.CIDR, errdefs.ErrInvalidArgument)
	}
	if r.Direction == Ingress {
		return fmt.Errorf("name %s: a name says nothing of who begins towards the phone; an ingress rule has a prefix or any: %w", r.Name, errdefs.ErrInvalidArgument)
	}
	return checkName(r.Name)
}

// checkCIDR tells what is wrong with a rule's prefix. The zero value is none, and right.
func checkCIDR(p netip.Prefix) error {
	switch {
	case p == netip.Prefix{}:
		return nil
	case !p.IsValid():
		return fmt.Errorf("prefix %s: is none; want an address and a length, 192.0.2.0/24 or 2001:db8::/32: %w", p, errdefs.ErrInvalidArgument)
	case p.Addr().Is4In6():
		right := netip.PrefixFrom(p.Addr().Unmap(), max(0, p.Bits()-96)).Masked()
		return fmt.Errorf("prefix %s: IPv4 is written as such, %s: %w", p, right, errdefs.ErrInvalidArgument)
	case p != p.Masked():
		return fmt.Errorf("prefix %s: has bits behind its length; want %s, or %s for the one address: %w",
			p, p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), errdefs.ErrInvalidArgument)
	}
	return nil
}

func (r Rule) validatePorts() error {
	if len(r.Ports) == 0 {
		return nil
	}
	if r.Protocol != TCP && r.Protocol != UDP {
		return fmt.Errorf("has ports: only tcp and udp have them, so name one of these, or leave the ports out: %w", errdefs.ErrInvalidArgument)
	}
	if len(r.Ports) > MaxPorts {
		return fmt.Errorf("has %d ranges of ports; a rule may have %d, so make several of it: %w", len(r.Ports), MaxPorts, errdefs.ErrInvalidArgument)
	}
	for _, p := range r.Ports {
		if p.First == 0 || p.First > p.Last {
			return fmt.Errorf("ports %d-%d: want 1..65535, the lower first: %w", p.First, p.Last, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// validateNames refuses names that more of the policy's names stand for than the kernel keeps for one address: a rule that denies one of
// them would not be seen.
func (p Policy) validateNames() (rule int, err error) {
	names := map[string]bool{}
	for _, r := range p.Rules {
		if r.Name != "" {
			names[r.Name] = true
		}
	}
	for i, r := range p.Rules {
		if n := around(names, r.Name); n > MaxNames {
			return i, fmt.Errorf("name %s: %d names of the policy stand for it; at most %d may, so leave out some of the wildcards: %w", r.Name, n, MaxNames, errdefs.ErrInvalidArgument)
		}
	}
	return 0, nil
}

// around counts the names that stand for all that a name stands for, itself included.
func around(names map[string]bool, name string) int {
	if name == "" {
		return 0
	}
	n := 0
	if names["*"] {
		n++
	}
	if name != "*" && names[name] {
		n++
	}
	rest := strings.TrimPrefix(name, "*.")
	for {
		_, above, ok := strings.Cut(rest, ".")
		if !ok {
			return n
		}
		if names["*."+above] {
			n++
		}
		rest = above
	}
}
