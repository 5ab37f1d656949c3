package policy

import (
	"net/netip"
)

// MaxRules is how many rules a policy may have.
const MaxRules = 10_000

// Action is what a rule does with the flows that it decides.
type Action uint8

// The actions. The numbers are those of layout.h.
const (
	Deny  Action = 0
	Allow Action = 1
)

// Direction is who begins a flow.
type Direction uint8

// The directions. The numbers are those of layout.h.
const (
	Egress  Direction = 0 // the phone
	Ingress Direction = 1 // its peer
)

// Protocol is what a rule matches of the protocols that phones may speak.
type Protocol uint8

// The protocols. ICMP is ICMP and ICMPv6.
const (
	Any  Protocol = 0
	TCP  Protocol = 1
	UDP  Protocol = 2
	ICMP Protocol = 3
)

// Default is what happens to flows that no rule decides.
type Default uint8

// The defaults.
const (
	AllowInternet Default = 0
	DenyAll       Default = 1
)

// PortRange is the ports from First to Last, both included.
type PortRange struct {
	First, Last uint16
}

// Rule is one rule of a policy.
type Rule struct {
	Action    Action
	Direction Direction
	Protocol  Protocol
	// CIDR is the peer's prefix, masked, without an IPv4-mapped IPv6 address; the zero value is any address. Not beside Name.
	CIDR netip.Prefix
	// Name is the peer's DNS name: exact ("example.com"), every name below one ("*.example.com", which example.com itself is not), or
	// every name ("*"); lower case, ASCII (IDNA), without a final dot; empty for none. Only for Egress. A name never opens a protected address.
	Name string
	// Ports are the ports that match, 1..65535 (0 is no port), in any order; none means all. Only with TCP and UDP.
	Ports []PortRange
}

// Policy is a list of rules and a default.
type Policy struct {
	Default Default
	Rules   []Rule
}
