// Package netpolicy is the engine of the phones' networks: it gives each phone a link of its own, and makes the kernel decide what passes
// over it.
//
//	guest's eth0 ---- veth ---- host's end [from_phone, to_phone: BPF] ---- routing ---- nftables: NAT ---- uplink
//
// Engine composes what the packages below it own:
//
//	netns     the phones' network namespaces
//	policy    what policies say, and the objects that the kernel reads
//	datapath  the BPF programs, their maps and pins
//	wire      links, addresses, routes
//	nat       the project's nftables table
//	shape     bandwidth
//	resolver  the name server, a process of its own
//
// The order of things is what keeps a phone in: a link comes up only when its programs are attached, and they drop everything until the
// phone's policy is loaded. What the kernel holds stays in force when the process ends; the next Engine finds it.
//
// An Engine may be used by several goroutines; calls for one phone must not overlap.
package netpolicy
