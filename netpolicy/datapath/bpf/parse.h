/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading of packets: Ethernet, IPv4, IPv6, TCP, UDP, ICMP. What a rule may be asked about is read here, and what could be read in
 * two ways is dropped: options, extension headers, VLAN tags, lengths that do not agree, fragments that hide or overwrite ports.
 *
 * Of fragments the first must hold the ports, or the header of TCP; the others pass when it did (flow.h), and may not begin where
 * the header of the first may be.
 */
#pragma once

#include <linux/if_packet.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "maps.h"
#include "packet.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define ICMP4_ECHO_REPLY 0
#define ICMP4_UNREACHABLE 3
#define ICMP4_ECHO 8
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PARAMETER 12
#define ICMP6_UNREACHABLE 1
#define ICMP6_PARAMETER 4
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_ROUTER_SOLICITATION 133
#define ICMP6_SOLICITATION 135
#define ICMP6_ADVERTISEMENT 136
#define ICMP6_REDIRECT 137

#define IP4_MORE 0x2000	  /* flags and offset of IPv4 */
#define IP4_OFFSET 0x1fff
#define IP6_MORE 0x0001	  /* and of the fragment header of IPv6 */
#define IP6_OFFSET 0xfff8

#define FRAME_MIN 60 /* shorter frames may be padded up to this */

struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id; /* of an echo */
	__be16 sequence;
};

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

/* Of an IP packet that ends at this offset of the frame nothing may be missing, and nothing but padding may follow. */
inline bool wrong_length(const struct packet *p, __u32 end)
{
	return p->length < end || (p->length > end && p->length > FRAME_MIN);
}

inline bool multicast4(const struct phone *phone, __be32 ip4)
{
	__u32 address = bpf_ntohl(ip4);
	__u32 own = bpf_ntohl(((const half *)phone->ip4)[3]);

	if (address >> 28 == 0xe || address == 0xffffffff)
		return true;
	return phone->prefix4 < 31 && address == (own | 0xffffffffu >> (phone->prefix4 & 31));
}

inline bool multicast6(const void *address)
{
	return *(const __u8 *)address == 0xff;
}

inline bool link_local6(const void *address)
{
	const __u8 *a = address;

	return a[0] == 0xfe && (a[1] & 0xc0) == 0x80;
}

inline bool unspecified6(const void *address)
{
	const word *x = address;

	return !x[0] && !x[1];
}

/* Ethernet: from the phone, and without a tag. Returns a reason; type is that of what follows. */
inline int parse_link(struct __sk_buff *skb, const struct packet *p, const struct phone *phone, __be16 *type)
{
	struct ethhdr *eth = head(skb, sizeof(*eth));

	if (!eth)
		return REASON_MALFORMED;
	*type = eth->h_proto;
	if (p->direction == EGRESS && !same_mac(eth->h_source, phone->mac))
		return REASON_SPOOFED_MAC;
	if (skb->vlan_present || *type == bpf_htons(ETH_P_8021Q) || *type == bpf_htons(ETH_P_8021AD))
		return REASON_VLAN;
	/* What the kernel takes it for decides who receives it. */
	return skb->protocol == *type ? REASON_NONE : REASON_NOT_IP;
}

inline int parse_tcp(struct __sk_buff *skb, struct packet *p, __u32 at, __u16 *source, __u16 *target)
{
	int reason = p->first ? REASON_FRAGMENT : REASON_MALFORMED;
	struct tcphdr *tcp;
	void *data;

	if (p->room < sizeof(*tcp))
		return reason;
	data = head(skb, at + sizeof(*tcp));
	if (!data)
		return REASON_MALFORMED;
	tcp = data + at;
	if (tcp->doff * 4 < sizeof(*tcp))
		return REASON_MALFORMED;
	if (tcp->doff * 4 > p->room)
		return reason;
	*source = bpf_ntohs(tcp->source);
	*target = bpf_ntohs(tcp->dest);
	p->tcp_flags = ((__u8 *)tcp)[13];
	return REASON_NONE;
}

inline int parse_udp(struct __sk_buff *skb, struct packet *p, __u32 at, __u16 *source, __u16 *target)
{
	struct udphdr *udp;
	__u16 length;
	void *data;

	if (p->room < sizeof(*udp))
		return p->first ? REASON_FRAGMENT : REASON_MALFORMED;
	data = head(skb, at + sizeof(*udp));
	if (!data)
		return REASON_MALFORMED;
	udp = data + at;
	length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp) || (length > p->room && !p->first && !skb->gso_size))
		return REASON_MALFORMED;
	*source = bpf_ntohs(udp->source);
	*target = bpf_ntohs(udp->dest);
	return REASON_NONE;
}

/* What kinds of ICMP there are for phones: echo, and errors about packets of a flow. */
inline bool is_error(const struct packet *p)
{
	if (p->key.protocol == IPPROTO_ICMPV6)
		return p->icmp_type >= ICMP6_UNREACHABLE && p->icmp_type <= ICMP6_PARAMETER;
	return p->icmp_type == ICMP4_UNREACHABLE || p->icmp_type == ICMP4_TIME_EXCEEDED || p->icmp_type == ICMP4_PARAMETER;
}

inline bool is_echo(__u8 protocol, __u8 type)
{
	return type == (protocol == IPPROTO_ICMPV6 ? ICMP6_ECHO : ICMP4_ECHO);
}

inline bool is_echo_reply(__u8 protocol, __u8 type)
{
	return type == (protocol == IPPROTO_ICMPV6 ? ICMP6_ECHO_REPLY : ICMP4_ECHO_REPLY);
}

inline int parse_icmp(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	struct icmp *icmp;
	void *data;

	if (p->room < sizeof(*icmp))
		return p->first ? REASON_FRAGMENT : REASON_MALFORMED;
	data = head(skb, at + sizeof(*icmp));
	if (!data)
		return REASON_MALFORMED;
	icmp = data + at;
	p->icmp_type = icmp->type;
	if (is_error(p)) {
		p->kind = KIND_ERROR;
		return p->first ? REASON_FRAGMENT : REASON_NONE;
	}
	/* Another code would be another connection for the kernel's tracking. */
	if (icmp->code || !(is_echo(p->key.protocol, icmp->type) || is_echo_reply(p->key.protocol, icmp->type)))
		return REASON_PROTOCOL;
	p->key.phone_port = bpf_ntohs(icmp->id);
	return REASON_NONE;
}

/*
 * What follows the IP header of a packet that is whole or a first fragment. at is the offset of it, a constant: the compiler makes this
 * once for each, which the verifier follows best; icmp is the number that ICMP has in this version of IP.
 */
inline int parse_transport(struct __sk_buff *skb, struct packet *p, __u32 at, __u8 icmp)
{
	__u16 source = 0, target = 0;
	int reason = REASON_PROTOCOL;

	p->transport = at;
	if (p->key.protocol == IPPROTO_TCP)
		reason = parse_tcp(skb, p, at, &source, &target);
	else if (p->key.protocol == IPPROTO_UDP)
		reason = parse_udp(skb, p, at, &source, &target);
	else if (p->key.protocol == icmp)
		return parse_icmp(skb, p, at);
	if (reason)
		return reason;
	if (!source || !target)
		return REASON_MALFORMED;
	p->key.peer_port = p->direction == EGRESS ? target : source;
	p->key.phone_port = p->direction == EGRESS ? source : target;
	return REASON_NONE;
}

/* A fragment that begins at p->offset, other than the first. */
inline int parse_later(struct packet *p, bool more)
{
	__u8 header = p->key.protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);

	if (!p->room || (more && p->room % 8) || p->offset + p->room > 0xffff)
		return REASON_MALFORMED;
	if (p->offset < header)
		return REASON_FRAGMENT;
	p->kind = KIND_LATER;
	return REASON_NONE;
}

/* Whose address it is: the phone's as source of what it sends and as target of what it gets. */
inline int check4(const struct packet *p, const struct phone *phone, __be32 source, __be32 target)
{
	if (p->direction == EGRESS) {
		if (!same4(phone->ip4, source) && !(multicast4(phone, target) && !source))
			return REASON_SPOOFED_IP;
		return multicast4(phone, target) ? REASON_MULTICAST : REASON_NONE;
	}
	if (multicast4(phone, target) || multicast4(phone, source))
		return REASON_MULTICAST;
	return same4(phone->ip4, target) ? REASON_NONE : REASON_NO_FLOW;
}

inline int parse4(struct __sk_buff *skb, struct packet *p, const struct phone *phone)
{
	struct iphdr *ip;
	void *data = head(skb, ETH_HLEN + sizeof(*ip));
	__u16 length, flags;
	__be32 source, target;
	bool options;
	int reason;

	if (!data)
		return REASON_MALFORMED;
	ip = data + ETH_HLEN;
	length = bpf_ntohs(ip->tot_len);
	source = ip->saddr;
	target = ip->daddr;
	flags = bpf_ntohs(ip->frag_off);
	options = ip->ihl > 5;
	p->key.protocol = ip->protocol;
	p->id = bpf_ntohs(ip->id);
	map4(p->key.peer, p->direction == EGRESS ? target : source);
	if (ip->version != 4 || ip->ihl < 5 || length < ip->ihl * 4 || wrong_length(p, ETH_HLEN + length))
		return REASON_MALFORMED;
	p->room = length - sizeof(*ip);
	reason = check4(p, phone, source, target);
	if (reason)
		return reason;
	if (options)
		return REASON_IP_OPTIONS;
	p->offset = (flags & IP4_OFFSET) * 8;
	if (p->offset)
		return parse_later(p, flags & IP4_MORE);
	p->first = !!(flags & IP4_MORE);
	return parse_transport(skb, p, ETH_HLEN + sizeof(*ip), IPPROTO_ICMP);
}

/* Extension headers: they say how to go on, or what to do, and none of it is for phones. */
inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT || next == IPPROTO_AH || next == IPPROTO_NONE ||
	       next == IPPROTO_DSTOPTS || next == 135 /* mobility */ || next == 139 /* host identity */ || next == 140 /* shim6 */;
}

/* An IPv4 address in an IPv6 header: on a wire it has no meaning (RFC 4291, 2.5.5.2), and here it would mean IPv4. */
inline bool mapped6(const void *address)
{
	const word *x = address;

	return !x[0] && *(const half *)(address + 8) == MAPPED;
}

inline int check6(const struct packet *p, const struct phone *phone, const void *source, const void *target)
{
	if (p->direction == EGRESS) {
		bool own = same(phone->ip6, source) && !unspecified6(source);

		if (!own && !(multicast6(target) && (link_local6(source) || unspecified6(source))))
			return REASON_SPOOFED_IP;
		if (multicast6(target))
			return REASON_MULTICAST;
	} else {
		if (multicast6(target) || multicast6(source))
			return REASON_MULTICAST;
		if (!same(phone->ip6, target))
			return REASON_NO_FLOW;
	}
	return mapped6(p->key.peer) ? REASON_MALFORMED : REASON_NONE;
}

/* The fragment header behind the IPv6 header, and what follows it. */
inline int parse_fragment6(struct __sk_buff *skb, struct packet *p)
{
	struct fragment_header *header;
	void *data;
	__u16 flags;

	if (p->room < sizeof(*header))
		return REASON_MALFORMED;
	data = head(skb, ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(*header));
	if (!data)
		return REASON_MALFORMED;
	header = data + ETH_HLEN + sizeof(struct ipv6hdr);
	flags = bpf_ntohs(header->offset);
	p->key.protocol = header->next;
	p->id = bpf_ntohl(header->id);
	p->room -= sizeof(*header);
	p->offset = flags & IP6_OFFSET;
	p->first = !p->offset && flags & IP6_MORE;
	if (is_extension(p->key.protocol))
		return REASON_IP6_EXTENSION;
	if (p->offset)
		return parse_later(p, flags & IP6_MORE);
	return parse_transport(skb, p, ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(*header), IPPROTO_ICMPV6);
}

/* Neighbour discovery has other addresses than what goes further; it is never fragmented (RFC 6980). */
inline bool is_neighbour_discovery(struct __sk_buff *skb, struct packet *p)
{
	__u32 at = ETH_HLEN + sizeof(struct ipv6hdr);
	void *data;

	if (p->key.protocol != IPPROTO_ICMPV6 || !p->room)
		return false;
	data = head(skb, ETH_HLEN + sizeof(struct ipv6hdr) + 1);
	if (!data)
		return false;
	p->icmp_type = *(__u8 *)(data + at);
	return p->icmp_type >= ICMP6_ROUTER_SOLICITATION && p->icmp_type <= ICMP6_REDIRECT;
}

inline int parse6(struct __sk_buff *skb, struct packet *p, const struct phone *phone)
{
	__u64 source[2], target[2];
	struct ipv6hdr *ip;
	void *data = head(skb, ETH_HLEN + sizeof(*ip));
	int reason;

	if (!data)
		return REASON_MALFORMED;
	ip = data + ETH_HLEN;
	__builtin_memcpy(source, &ip->saddr, sizeof(source));
	__builtin_memcpy(target, &ip->daddr, sizeof(target));
	__builtin_memcpy(p->key.peer, p->direction == EGRESS ? target : source, sizeof(p->key.peer));
	p->key.protocol = ip->nexthdr;
	p->room = bpf_ntohs(ip->payload_len);
	if (ip->version != 6 || wrong_length(p, ETH_HLEN + sizeof(*ip) + p->room))
		return REASON_MALFORMED;
	if (is_neighbour_discovery(skb, p)) {
		p->kind = KIND_NEIGHBOUR;
		p->transport = ETH_HLEN + sizeof(*ip);
		return REASON_NONE;
	}
	reason = check6(p, phone, source, target);
	if (reason)
		return reason;
	if (p->key.protocol == IPPROTO_FRAGMENT)
		return parse_fragment6(skb, p);
	if (is_extension(p->key.protocol))
		return REASON_IP6_EXTENSION;
	return parse_transport(skb, p, ETH_HLEN + sizeof(*ip), IPPROTO_ICMPV6);
}

inline int parse(struct __sk_buff *skb, struct packet *p, const struct phone *phone)
{
	__be16 type = 0;
	int reason = parse_link(skb, p, phone, &type);

	if (reason)
		return reason;
	switch (type) {
	case bpf_htons(ETH_P_IP):
		return parse4(skb, p, phone);
	case bpf_htons(ETH_P_IPV6):
		return parse6(skb, p, phone);
	case bpf_htons(ETH_P_ARP):
		p->kind = KIND_ARP;
		return REASON_NONE;
	default:
		return REASON_NOT_IP;
	}
}

/* The phone's policy, an object, or NULL. */
inline void *get_policy(const struct packet *p)
{
	__u32 slot = p->policy;

	return bpf_map_lookup_elem(&policies, &slot);
}

inline struct cell *get_header(void *object)
{
	__u32 zero = 0;

	return object ? bpf_map_lookup_elem(object, &zero) : NULL;
}

inline struct phone *get_phone(const struct packet *p)
{
	__u32 index = p->ifindex;

	return bpf_map_lookup_elem(&phones, &index);
}

/* Finds the phone and reads the frame. Returns a reason, or REASON_NONE: then p->kind says what it is. */
function int read_packet(struct __sk_buff *skb, struct packet *p)
{
	struct phone *phone;
	struct cell *header;

	if (!p)
		return REASON_NO_PHONE;
	p->ifindex = skb->ifindex;
	phone = get_phone(p);
	if (!phone)
		return REASON_NO_PHONE;
	p->known = 1;
	p->now = bpf_ktime_get_coarse_ns();
	p->length = skb->len;
	p->segments = skb->gso_segs ?: 1;
	p->slot = phone->slot;
	p->policy = phone->policy;
	if (phone->flags & PHONE_CUT)
		return REASON_CUT;
	header = get_header(get_policy(p));
	if (!header)
		return REASON_NO_POLICY;
	p->generation = header->word[0];
	return parse(skb, p, phone);
}
