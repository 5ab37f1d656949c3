package phone

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Limits of a phone's network.
const (
	// MaxForwards is how many ports of the host may lead to one phone.
	MaxForwards = 64
	// MinBits and MaxBits bound a bandwidth, in bit/s.
	MinBits = 64_000
	MaxBits = 100_000_000_000
)

// Forward is a port of the host that leads to a port of a phone.
type Forward struct {
	// Listen is the host's address and port.
	Listen netip.AddrPort `json:"listen"`
	// Protocol is policy.TCP or policy.UDP.
	Protocol policy.Protocol `json:"protocol"`
	// Port is the phone's.
	Port uint16 `json:"port"`
}

// Network is what a phone's network should be.
type Network struct {
	// IPv4 and IPv6 are the addresses that were asked for; the zero value leaves the choice to the agent. Record has those of the phone.
	IPv4 netip.Addr `json:"ipv4,omitzero"`
	IPv6 netip.Addr `json:"ipv6,omitzero"`
	// Policy is the name of its policy.
	Policy string `json:"policy,omitempty"`
	// UpBits and DownBits bound what the phone sends and receives, in bit/s: 0, or MinBits..MaxBits.
	UpBits   uint64 `json:"up_bits,omitempty"`
	DownBits uint64 `json:"down_bits,omitempty"`
	// Forwards are the host's ports that lead to it, at most MaxForwards.
	Forwards []Forward `json:"forwards,omitempty"`
}

func (n Network) equal(o Network) bool {
	return n.IPv4 == o.IPv4 && n.IPv6 == o.IPv6 && n.Policy == o.Policy && n.UpBits == o.UpBits && n.DownBits == o.DownBits && slices.Equal(n.Forwards, o.Forwards)
}

// withDefaults fills in the defaults.
func (n Network) withDefaults() Network {
	n.Policy = orDefault(n.Policy, netpolicy.DefaultPolicy)
	n.Forwards = slices.Clone(n.Forwards)
	for i := range n.Forwards {
		n.Forwards[i].Protocol = orDefault(n.Forwards[i].Protocol, policy.TCP)
	}
	return n
}

// isDefault reports whether nothing was asked for.
func (n Network) isDefault() bool { return n.equal(Network{Policy: netpolicy.DefaultPolicy}) }

// inherit fills in what a new phone that is made from another's data does not say. Addresses and forwards are one phone's own.
func (n Network) inherit(from Network) Network {
	n.Policy = orDefault(n.Policy, from.Policy)
	n.UpBits, n.DownBits = orDefault(n.UpBits, from.UpBits), orDefault(n.DownBits, from.DownBits)
	return n
}

// policyName is what can be the name of a policy.
const policyNameRule = "1..63 characters of [a-z0-9-]"

// ValidPolicyName reports whether a string can name a policy.
func ValidPolicyName(name string) bool {
	if len(name) == 0 || len(name) > 63 {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// CheckPolicyName refuses what cannot name a policy. field is where the request has it.
func CheckPolicyName(field, name string) error {
	if !ValidPolicyName(name) {
		return fault.Field(field, "%q must be %s", fault.Clip(name), policyNameRule)
	}
	return nil
}

// checkNetwork checks what can be checked without the host's pools.
func (s Spec) checkNetwork(Capacity) error {
	n := s.Network
	if err := CheckPolicyName("spec.network.policy", n.Policy); err != nil {
		return err
	}
	if err := checkBits("spec.network.up_bits_per_second", n.UpBits); err != nil {
		return err
	}
	if err := checkBits("spec.network.down_bits_per_second", n.DownBits); err != nil {
		return err
	}
	return checkForwards(n.Forwards)
}

// checkBits refuses a bandwidth that cannot be kept.
func checkBits(field string, bits uint64) error {
	if bits != 0 && (bits < MinBits || bits > MaxBits) {
		return fault.Field(field, "%d must be 0 for no limit, or %d..%d", bits, MinBits, uint64(MaxBits))
	}
	return nil
}

// checkForwards refuses forwards that cannot be, or not beside each other.
func checkForwards(forwards []Forward) error {
	if len(forwards) > MaxForwards {
		return fault.Field("spec.network.forwards", "%d forwards are more than %d", len(forwards), MaxForwards)
	}
	for i, f := range forwards {
		field := "spec.network.forwards[" + strconv.Itoa(i) + "]"
		if err := f.check(field); err != nil {
			return err
		}
		for _, other := range forwards[:i] {
			if f.collides(other) {
				return fault.Field(field+".listen", "%s is where %s listens already", f.Listen, other.Listen)
			}
		}
	}
	return nil
}

// check refuses a forward that cannot be. field is where the request has it.
func (f Forward) check(field string) error {
	a := f.Listen.Addr()
	switch {
	case !f.Listen.IsValid() || f.Listen.Port() == 0 || a.Zone() != "" || a.Is4In6():
		return fault.Field(field+".listen", "must be ADDRESS:PORT with a port of 1..65535, such as 127.0.0.1:6001 or [2001:db8::1]:6001")
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || a.IsLinkLocalUnicast():
		return fault.Field(field+".listen", "%s must be an address of the host that routers know", a)
	case a.Is6() && a.IsLoopback():
		return fault.Field(field+".listen", "%s leads nowhere: the kernel forwards nothing from IPv6 loopback; listen at 127.0.0.1", a)
	case f.Protocol != policy.TCP && f.Protocol != policy.UDP:
		return fault.Field(field+".protocol", "must be TCP or UDP")
	case f.Port == 0:
		return fault.Field(field+".port", "must be 1..65535")
	}
	return nil
}

// collides reports whether two forwards would take the same packets. Unspecified means every address of the family.
func (f Forward) collides(o Forward) bool {
	a, b := f.Listen.Addr(), o.Listen.Addr()
	return f.Protocol == o.Protocol && f.Listen.Port() == o.Listen.Port() && a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified())
}

// network returns the phone in the words of the engine of networks.
func (r *Record) network() netpolicy.Phone {
	n := r.Spec.Network
	p := netpolicy.Phone{
		ID: r.Spec.ID, Slot: r.Slot, IPv4: r.IPv4, IPv6: r.IPv6, Policy: orDefault(n.Policy, netpolicy.DefaultPolicy),
		UpBits: n.UpBits, DownBits: n.DownBits, Cut: r.NetworkCut,
		DHCP: true, // for guests that ask; those that were configured from outside do not
	}
	for _, f := range n.Forwards {
		p.Forwards = append(p.Forwards, netpolicy.Forward{Listen: f.Listen, Protocol: f.Protocol, Port: f.Port})
	}
	return p
}

// sameNetwork reports whether two phones of the engine's ask for the same.
func sameNetwork(a, b netpolicy.Phone) bool {
	forwards := slices.Equal(a.Forwards, b.Forwards)
	return forwards && a.ID == b.ID && a.Slot == b.Slot && a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 && a.Policy == b.Policy &&
		a.UpBits == b.UpBits && a.DownBits == b.DownBits && a.Cut == b.Cut && a.DHCP == b.DHCP
}
