package netpolicy

import (
	"net/netip"
	"time"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// DefaultPolicy is the name of the policy of phones that were given none: no rules, and policy.AllowInternet. It cannot be changed.
const DefaultPolicy = "allow-internet"

// What stands in place of a rule's index.
const (
	RuleDefault = -1 // the policy's default
	RuleGateway = -2 // the gateway's DNS, DHCP and echo
	RuleForward = -3 // a forward
	RuleNone    = -4 // none was asked
)

// Phone is what a phone's network should be.
type Phone struct {
	// ID is the phone's name, and Slot a number below Config.MaxPhones that no other phone has.
	ID   string
	Slot uint32
	// IPv4 and IPv6 are its addresses, in the pools of the Config; IPv6 is the zero value without an IPv6 pool.
	IPv4, IPv6 netip.Addr
	// Policy is the name of its policy, which must be set before.
	Policy string
	// UpBits and DownBits bound what it sends and receives, in bit/s; 0: unlimited.
	UpBits, DownBits uint64
	// Cut takes it off the network.
	Cut bool
	// DHCP answers its DHCP requests with IPv4: for guests that configure themselves.
	DHCP bool
	// Forwards are the host's ports that lead to it.
	Forwards []Forward
}

// Forward is a port of the host that leads to a port of a phone. Whoever reaches the one reaches the other, whatever the policy says.
type Forward struct {
	// Listen is the host's address and port; the address is one of the host's, loopback, or unspecified for all.
	Listen netip.AddrPort
	// Protocol is policy.TCP or policy.UDP.
	Protocol policy.Protocol
	// Port is the phone's.
	Port uint16
}

// Status is what there is of a phone's network.
type Status struct {
	// Up tells that the link is up with the programs attached and the policy loaded.
	Up bool
	// Interface is the name of the host's end and MTU its MTU in bytes.
	Interface string
	MTU       int
	// Generation is the generation of the policy's object in force.
	Generation uint64
	Counters   Counters
	// Flows is how many live flows there are, and MaxFlows how many there may be.
	Flows, MaxFlows int
}

// Counters are totals since the phone's network was made. [policy.Egress] is what the phone sent.
type Counters struct {
	Packets, Bytes [2]uint64
	// Dropped packets by reason, as datapath names them ("RULE", "SPOOFED_IP"...).
	Dropped map[string]uint64
}

// Flow is one live flow, or one that has ended (Watch).
type Flow struct {
	Phone     string
	Direction policy.Direction
	Protocol  policy.Protocol
	Peer      netip.AddrPort // port 0 for ICMP
	Port      uint16         // the phone's; the identifier for ICMP
	State     string         // "NEW", "ESTABLISHED", "CLOSING", "CLOSED"
	// Rule is the index of the rule that allowed it, or RuleDefault, RuleGateway, RuleForward.
	Rule           int
	Started, Seen  time.Time // Seen: last packet
	Packets, Bytes [2]uint64
}

// Denial is packets that were dropped alike.
type Denial struct {
	Phone     string
	Direction policy.Direction // of the packets
	Protocol  uint8            // number in the IP header; 0 where there is none
	Peer      netip.Addr       // the zero value where there is none
	Port      uint16           // the peer's for what the phone sent, else the phone's
	// Name is what the name server refused to resolve, with Reason "NAME": then there is no Peer, and Count is that of questions.
	Name   string
	Reason string
	Class  string // what a protected address belongs to ("HOST", "PHONE"...); else empty
	Rule   int    // the index of the rule that decided, RuleDefault or RuleNone
	// Count and Bytes since the denial was last reported. A Count with the zero Peer and Reason "OTHER" sums up those that found no room.
	Count, Bytes uint64
	First, Last  time.Time
}

// Probe is a flow that might be.
type Probe struct {
	Direction policy.Direction
	Protocol  policy.Protocol
	// Peer is its peer; or Name, for which the host's resolvers are asked as the name server would.
	Peer netip.Addr
	Name string
	Port uint16
}

// Decision is what would become of a Probe, as the kernel's own program says.
type Decision struct {
	Allowed bool
	Reason  string
	Class   string
	Peer    netip.Addr
	Rule    int
	// Text says in words which rule decides and why.
	Text string
}
