// Package nat owns one nftables table, "phonehost" of the family inet, and nothing else of the host's rules. In it are
//
//	guard     prerouting   raw - 5      what a phone sends from or to 127.0.0.0/8 is dropped
//	begun     prerouting   mangle       times and number of the flows that phones begin; what is INVALID is dropped where the pool is hidden
//	reached   postrouting  mangle       the same for flows that others begin to phones
//	incoming  prerouting   dstnat - 5   forwards, for what arrives at the host
//	own       output       dstnat - 5   forwards, for what the host's own processes send
//	source    postrouting  srcnat - 5   masquerade; source addresses of forwards that need another one
//
// and the maps forward4, forward6 (by address, protocol and port), every4, every6 (by protocol and port), the sets begun4, begun6,
// reached4, reached6 (live flows by phone) and the objects that hold the times, named after them. What can be read with nft can be
// loaded with it again: hosts keep their rules in files that way.
//
// The priorities: conntrack knows a flow from -200 on, and takes its times until the flow is confirmed, which is last of all. Of the
// chains that translate at one hook the first that has a rule for a flow decides. Docker's, and whatever else comes from iptables, are
// at dstnat (-100) and srcnat (100), firewalld's at +10 of each; ours are five before either and match nothing but pools and forwards.
// No chain of ours accepts a packet for another: in nftables each base chain is asked, and a drop anywhere is a drop. So a host whose
// forward hook drops what it does not know drops the phones' packets too, whatever is written here. Conflicts finds out and says what
// mends it.
//
// # What replacement keeps
//
// Apply replaces all rules in one transaction: a packet sees the old ones or the new ones at each hook. Forwards that stay are not touched:
// rules of before that still run would not find them. Translations belong to conntrack's entries, not to the rules that began them, so
// live connections go on; one whose forward is gone, too, until it ends.
// The objects with the times and the sets that count stay in the table. To delete such an object takes the times away from every flow
// that has them, which then lives by the host's own (a TCP connection for five days); to delete a set is to begin to count anew.
// Other times are objects of other names, and those of before stay until Remove or the next boot.
//
// # What bounds the kernel's table
//
// The kernel has one table of connections for all (net.netfilter.nf_conntrack_max). A phone's part of it is bounded because
//
//   - what the datapath drops on its way from a phone never meets conntrack: the programs come before it. They let a phone have so many
//     flows as Config.MaxFlows says, and a flow of theirs lives as long as conntrack's entry, by the times of Timeouts.
//   - packets that are dropped behind prerouting, by the host's own rules or for want of a route, leave no entry: only the end of
//     postrouting or input confirms one.
//   - a phone's flow in the datapath may end before conntrack's: a reset with a sequence number out of the window closes it there, and
//     conntrack, which looks at the window, goes on for as long as an established connection may. So conntrack's own entries are
//     counted by phone: new flows beyond twice MaxFlows are dropped in the chain begun. Twice, because a flow is counted from its
//     first packet and until it is swept, which may be a while after its end.
//   - the same counts for what others begin to a phone, by its forwards or routed: the programs on the way to the phone come after
//     postrouting, when the entry is confirmed already, so nothing but the count in the chain reached bounds those.
//   - what goes to the gateway (DNS, echo) passes prerouting too and has the same times and count. What the name server asks of its
//     upstreams is the host's own and bounded by the name server.
//   - TIME_WAIT, and LAST_ACK, have the time of a closed flow. Unacknowledged and retransmitted segments only shorten times.
//     Of segments that begin no connection only those with an ACK from the phone pass the datapath, which then takes the flow for
//     established, as conntrack does that picks it up in the middle. Flows that are INVALID or untracked have no entry. No helper is attached, so there are no expectations.
//   - fragments are held by the kernel's reassembly, which has a limit of its own, and not in the table.
//   - ICMP has no object of times: nft cannot load what it would list of one, and a host's saved rules would fail to load as a whole.
//     The host's own time holds, net.netfilter.nf_conntrack_icmp_timeout, and the count. The datapath's is the kernel's default of it, 30 s.
//
// # Loopback
//
// A forward that listens on 127.0.0.1 is in the chain own alone: packets from elsewhere with such a destination pass by every rule here
// and end in the kernel as martians. The answer of the phone comes in by its link for 127.0.0.1 (the translation is undone before
// routing), which only route_localnet on that link lets in, as it lets packets with a source of 127.0.0.1 leave by it. So Apply sets
// route_localnet on the links of phones with such forwards, after the guard is in place, and on no other. On the wire there is the
// gateway's address: neither the phone nor anything behind it sees one of loopback, and the guard drops what a phone makes up.
//
// Functions and methods may be called from several goroutines.
package nat
