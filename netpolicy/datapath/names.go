package datapath

import "strconv"

// Reason is why a packet was dropped. The numbers are those of enum reason in layout.h.
type Reason uint8

// Reasons that callers ask for by name; the others are only printed.
const (
	ReasonNone      Reason = 0
	ReasonProtected Reason = 15
	ReasonRule      Reason = 16
	ReasonDefault   Reason = 17
	// ReasonOther is of this package alone: packets that found no room in the table of denials, whatever their reason.
	ReasonOther Reason = 255
)

var reasons = [...]string{
	"NONE", "NO_PHONE", "NO_POLICY", "CUT", "NOT_IP", "VLAN", "MALFORMED", "IP_OPTIONS", "IP6_EXTENSION", "FRAGMENT", "SPOOFED_MAC",
	"SPOOFED_IP", "NEIGHBOUR", "PROTOCOL", "MULTICAST", "PROTECTED", "RULE", "DEFAULT", "NO_FLOW", "FLOW_LIMIT", "NAME_SERVER",
}

// String is the name in layout.h without its prefix: "SPOOFED_IP". A number without a name is itself: "31".
func (r Reason) String() string {
	if r == ReasonOther {
		return "OTHER"
	}
	return name(reasons[:], uint8(r))
}

// Class is what an address belongs to that a policy has to name to open it. The numbers are those of enum protected_class.
type Class uint8

var classes = [...]string{"", "PHONE", "HOST", "NETWORK", "LINK_LOCAL", "METADATA", "RESERVED", "PRIVATE"}

// String is the name in layout.h without its prefix: "HOST"; empty for an address that belongs to nothing.
func (c Class) String() string { return name(classes[:], uint8(c)) }

// State is how far a flow has come. The numbers are those of enum flow_state.
type State uint8

var states = [...]string{"NEW", "ESTABLISHED", "CLOSING", "CLOSED"}

// String is the name in layout.h without its prefix: "ESTABLISHED".
func (s State) String() string { return name(states[:], uint8(s)) }

func name(names []string, number uint8) string {
	if int(number) < len(names) {
		return names[number]
	}
	return strconv.Itoa(int(number))
}

// Rules that are none: what stands in place of a rule's index, from 0.
const (
	// RuleDefault is the policy's default.
	RuleDefault uint32 = 0xffffffff
	// RuleGateway lets a phone use the gateway's DNS, DHCP and echo.
	RuleGateway uint32 = 0xfffffffe
	// RuleForward is a port forward of the host.
	RuleForward uint32 = 0xfffffffd
	// RuleNone is that of packets that were dropped before any rule was asked.
	RuleNone uint32 = 0xfffffffc
)
