// Package wire gives each phone its link to the host: a veth pair, addresses, routes, neighbours and what the kernel must be told so that
// packets are forwarded. It knows which addresses the host has already, and which a phone must not reach unasked (Protected).
//
//	phone's namespace                       | host
//	eth0  ADDRESS/prefix of the IPv4 pool   | ph-<hash>  GATEWAY4/32, GATEWAY6/128, fe80::1/64    (alias phonehost:<id>)
//	      ADDRESS/128, fe80::<EUI-64>/64    |   route    ADDRESS/32, ADDRESS/128                  (protocol 112)
//	      default via GATEWAY4, fe80::1     |   neighbours of the phone, permanent
//	      both permanent neighbours         | unreachable <pool>                                  (protocol 112, once)
//
// The gateway's addresses are the first of each pool and the same on every host end. There is no bridge: a phone's frames end at the host end.
//
// Ensure, Up and Remove are level-triggered. Each compares what is with what should be and mends the difference, so that one that was
// killed between any two steps is finished by the next. Ensure leaves the host end of a new pair down; nothing passes before Up.
//
// # What a guest can do to its end
//
// A guest may have CAP_NET_ADMIN in its namespace. Whatever it does there it does to itself: the programs on the host end drop what is not
// its own. The next Ensure mends it:
//
//   - eth0 renamed, down, enslaved, without IPv6, with another MAC, MTU, address, neighbour or default route: put right where it is; a
//     link of the guest's own that has taken the name eth0 becomes guest0 or the next that is free; addresses that are not ours
//     are removed, link-local ones of IPv6 excepted
//   - eth0 deleted: the kernel deletes the host end too; a new pair is made, down, with a new index, and needs Up
//   - eth0 moved to another namespace: the pair is deleted and made anew
//   - the namespace's file gone: a new namespace is made, and a new pair for it. A guest that still runs in the old one has lost its
//     link and must be started again.
//
// # What is changed of the host's settings
//
//   - net.ipv4.conf.UPLINK.forwarding=1: the answers to phones arrive there. IPv4 asks the switch of the link on which a packet
//     arrives and no other, so net.ipv4.ip_forward stays as it is. (The kernel turns LRO off on a link that forwards.)
//   - net.ipv6.conf.UPLINK.force_forwarding=1, from Linux 6.17 on. The link stays a host in every other way: router advertisements are
//     accepted as before.
//   - Before 6.17 the kernel forwards IPv6 on all links or on none: net.ipv6.conf.all.forwarding=1 then, which also turns every link's
//     own switch on. Since a router ignores advertisements, accept_ra=1 becomes 2 first on every link that accepts them, and for links to come.
//   - an unreachable route for each pool, so that what is sent to an address that no phone has does not leave by the default route, and
//     does not go in circles where the pool is routed to this host.
//
// Nothing of this is undone when the last phone goes: something else may have come to need the forwarding. Withdraw removes the routes.
// Host ends have forwarding, proxy_arp without delay (a phone whose table of neighbours was flushed finds its gateway), no
// address of IPv6 but those above, and take no advertisements.
//
// A Wire may be used by several goroutines; calls for one phone must not overlap.
package wire
