// Package policy holds what a phone's network policy says, and turns it into the object that the kernel reads.
//
// A Policy is an ordered list of rules and a default. The first rule that matches a new flow decides it. A rule matches by direction
// (who began the flow), by its peer (any address, a CIDR, or a DNS name by which the name server gave the address out), by protocol and,
// for TCP and UDP, by port: the peer's for what the phone begins, the phone's for what its peers begin.
//
// What no rule decides, the default does: allow-internet lets the phone begin what it likes, deny-all nothing; neither lets anybody begin
// towards the phone. Addresses that are protected (other phones, the host, its networks, private and link-local ones) are no part of
// the internet: only a rule that names the protected prefix or a part of it opens them. Such a rule has to stand before others that match.
//
// Evaluate is the plain first-match evaluator: it defines what a policy means and explains decisions. Compile makes the immutable Object of
// netpolicy/datapath/bpf/layout.h, whose size grows with the number of rules, never with their product; Object.Judge walks it as the kernel
// does. Fuzz tests hold the three, this package's two and the kernel's, against each other.
//
// Policies are written as text, one rule a line (Parse, Format):
//
//	# what a school's phones may do
//	default deny-all
//	allow egress tcp *.example.com 443
//	allow egress any 192.0.2.0/24
//	allow egress udp any 3478,5000-5999
//	deny  egress icmp any
//	allow ingress tcp 198.51.100.7/32 5555
//
// Rules are counted from 1 in words (errors, Explain), as lines are, and from 0 in values (Verdict.Rule), as the kernel counts them.
//
// The package does no I/O and keeps no state; its values may be shared once they are made.
package policy
