/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * ARP and neighbour discovery: how a phone and the host's end of its link find each other, and nothing else. The phone may speak for
 * its own addresses only: those that it was given, and the link-local one that follows from its MAC address. The host would remember
 * others, in a table that all phones share. What a phone asks about others is dropped; by ARP, where no guest has to, with an entry in
 * "denials" that names whom it asked for.
 *
 * What the host asks and answers is let through when it concerns this phone.
 */
#pragma once

#include "packet.h"
#include "parse.h"
#include "policy.h"

#define MAX_OPTIONS 8	/* of a message of neighbour discovery */
#define MAX_SPANS 4096	/* that are looked at for one that allows a neighbour */

#define OPTION_SOURCE 1 /* link-layer address of the sender */
#define OPTION_TARGET 2 /* and of the target */

#define LINK_LOCAL bpf_cpu_to_be64(0xfe80000000000000ull)

#define ARP_ETHERNET 1
#define ARP_REQUEST 1
#define ARP_REPLY 2

struct arp {
	__be16 hardware;
	__be16 type;
	__u8 hardware_size;
	__u8 size;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
} __attribute__((packed, aligned(2)));

struct discovery {
	struct icmp icmp;
	__u64 target[2];
};

struct ends {
	__u64 source[2];
	__u64 target[2];
};

struct option {
	__u8 type;
	__u8 size; /* in units of 8 bytes */
	__u8 mac[6];
} __attribute__((aligned(2)));

inline __be32 load4(const __u8 *bytes)
{
	const __u16 *x = (const __u16 *)bytes;

	return x[0] | (__u32)x[1] << 16;
}

struct spans {
	void *object;
	__u32 at;
	__u32 left;
	__u32 bits; /* that an allowing rule needs */
	__u32 found;
};

static long span_step(__u32 step __attribute__((unused)), struct spans *s)
{
	struct cell *span;

	if (!s->left)
		return 1;
	span = bpf_map_lookup_elem(s->object, &s->at);
	if (!span)
		return 1;
	s->at++;
	s->left--;
	if (!span->word[2] || high(span->word[1]) < s->bits)
		return 0;
	s->found = 1;
	return 1;
}

struct chain {
	struct spans spans;
	__u32 node;
};

static long chain_step(__u32 step __attribute__((unused)), struct chain *c)
{
	struct cell *node;

	if (!c->node)
		return 1;
	node = bpf_map_lookup_elem(c->spans.object, &c->node);
	if (!node)
		return 1;
	c->node = node->word[1];
	c->spans.at = low(node->word[0]);
	c->spans.left = high(node->word[0]);
	bpf_loop(MAX_SPANS, span_step, &c->spans, 0);
	return c->spans.found ? 1 : 0;
}

/* Some rule allows the phone to begin something towards its neighbour: then it may ask for it, and the host will answer. */
inline bool neighbour_allowed(struct packet *p, const struct phone *phone)
{
	struct chain c = { .spans = { .object = get_policy(p) } };
	struct cell *header, *cell;

	header = get_header(c.spans.object);
	if (!header || !classify(p, phone))
		return false;
	cell = search_address(c.spans.object, header->word[2], p->key.peer);
	if (!cell)
		return false;
	c.node = cell->word[2];
	c.spans.bits = p->class == PROTECTED_NO ? 0 : p->bits;
	bpf_loop(MAX_CHAIN, chain_step, &c, 0);
	return c.spans.found;
}

inline bool is_operation(const struct arp *arp)
{
	return arp->operation == bpf_htons(ARP_REQUEST) || arp->operation == bpf_htons(ARP_REPLY);
}

inline int arp_from_phone(struct packet *p, const struct phone *phone, const struct arp *arp)
{
	__be32 sender = load4(arp->sender), target = load4(arp->target);

	if (!same_mac(arp->sender_mac, phone->mac))
		return REASON_SPOOFED_MAC;
	/* A probe: is the phone's own address free? (RFC 5227) */
	if (!sender)
		return same4(phone->ip4, target) ? REASON_NONE : REASON_NEIGHBOUR;
	if (!same4(phone->ip4, sender))
		return REASON_SPOOFED_IP;
	if (same4(phone->ip4, target) || same4(phone->gateway4, target))
		return REASON_NONE;
	return arp->operation == bpf_htons(ARP_REQUEST) && neighbour_allowed(p, phone) ? REASON_NONE : REASON_NEIGHBOUR;
}

function int judge_arp(struct __sk_buff *skb, struct packet *p)
{
	struct phone *phone;
	struct arp arp;

	if (!p)
		return REASON_NO_PHONE;
	phone = get_phone(p);
	if (!phone)
		return REASON_NO_PHONE;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)))
		return REASON_MALFORMED;
	if (arp.hardware != bpf_htons(ARP_ETHERNET) || arp.type != bpf_htons(ETH_P_IP) || arp.hardware_size != ETH_ALEN || arp.size != 4)
		return REASON_MALFORMED;
	map4(p->key.peer, load4(p->direction == EGRESS ? arp.target : arp.sender));
	if (!is_operation(&arp))
		return REASON_NEIGHBOUR;
	if (p->direction == EGRESS)
		return arp_from_phone(p, phone, &arp);
	return same4(phone->ip4, load4(arp.target)) ? REASON_NONE : REASON_NEIGHBOUR;
}

/* The link-local address that follows from the phone's MAC (RFC 4291, appendix A). */
inline bool own_link_local(const struct phone *phone, const __u64 *address)
{
	const __u8 *mac = phone->mac, *a = (const __u8 *)address;

	return address[0] == LINK_LOCAL && a[8] == (mac[0] ^ 2) && a[9] == mac[1] && a[10] == mac[2] && a[11] == 0xff && a[12] == 0xfe &&
	       a[13] == mac[3] && a[14] == mac[4] && a[15] == mac[5];
}

inline bool own6(const struct phone *phone, const __u64 *address)
{
	return (same(phone->ip6, address) && !unspecified6(address)) || own_link_local(phone, address);
}

/* The host's end: its address in the phones' pool, or fe80::1. */
inline bool host6(const struct phone *phone, const __u64 *address)
{
	return (same(phone->gateway6, address) && !unspecified6(address)) || (address[0] == LINK_LOCAL && address[1] == bpf_cpu_to_be64(1));
}

/* What never leaves the link: ff02::/16. */
inline bool link_multicast6(const __u64 *address)
{
	return (bpf_ntohs(*(const __u16 *)address) & 0xff0f) == 0xff02;
}

/* The link-layer addresses in the options that begin at an offset are the phone's. */
inline int check_options(struct __sk_buff *skb, const struct packet *p, const struct phone *phone, __u32 at)
{
	__u32 end = p->transport + p->room;
	struct option option;

	for (int i = 0; i < MAX_OPTIONS; i++) {
		if (at == end)
			return REASON_NONE;
		if (at + sizeof(option) > end || bpf_skb_load_bytes(skb, at, &option, sizeof(option)) || !option.size)
			return REASON_MALFORMED;
		if ((option.type == OPTION_SOURCE || option.type == OPTION_TARGET) && (option.size != 1 || !same_mac(option.mac, phone->mac)))
			return REASON_SPOOFED_MAC;
		at += option.size * 8;
	}
	return at == end ? REASON_NONE : REASON_NEIGHBOUR;
}

inline int discovery_from_phone(struct __sk_buff *skb, const struct packet *p, const struct phone *phone, const struct ends *e, const struct discovery *d)
{
	bool unspecified = unspecified6(e->source);
	__u32 size = sizeof(*d);

	if (!unspecified && !own6(phone, e->source))
		return link_local6(e->source) ? REASON_NEIGHBOUR : REASON_SPOOFED_IP;
	if (!link_multicast6(e->target) && !host6(phone, e->target))
		return REASON_NEIGHBOUR;
	switch (d->icmp.type) {
	case ICMP6_ROUTER_SOLICITATION:
		size = sizeof(d->icmp);
		break;
	case ICMP6_SOLICITATION: /* without an address of its own yet, the phone asks whether it may have it */
		if (!own6(phone, d->target) && (unspecified || !host6(phone, d->target)))
			return REASON_NEIGHBOUR;
		break;
	case ICMP6_ADVERTISEMENT:
		if (unspecified || !own6(phone, d->target))
			return own6(phone, e->source) ? REASON_SPOOFED_IP : REASON_NEIGHBOUR;
		break;
	default:
		return REASON_NEIGHBOUR;
	}
	return check_options(skb, p, phone, p->transport + size);
}

inline int discovery_to_phone(const struct phone *phone, const struct ends *e, const struct discovery *d)
{
	if (d->icmp.type != ICMP6_SOLICITATION && d->icmp.type != ICMP6_ADVERTISEMENT)
		return REASON_NEIGHBOUR;
	if (!unspecified6(e->source) && !host6(phone, e->source))
		return REASON_NEIGHBOUR;
	return link_multicast6(e->target) || own6(phone, e->target) ? REASON_NONE : REASON_NEIGHBOUR;
}

function int judge_discovery(struct __sk_buff *skb, struct packet *p)
{
	struct discovery d = {};
	struct phone *phone;
	struct ipv6hdr ip;
	struct ends e;

	if (!p)
		return REASON_NO_PHONE;
	phone = get_phone(p);
	if (!phone)
		return REASON_NO_PHONE;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return REASON_MALFORMED;
	__builtin_memcpy(e.source, &ip.saddr, sizeof(e.source));
	__builtin_memcpy(e.target, &ip.daddr, sizeof(e.target));
	if (p->room < sizeof(d.icmp) || (p->icmp_type != ICMP6_ROUTER_SOLICITATION && p->room < sizeof(d)))
		return REASON_MALFORMED;
	if (bpf_skb_load_bytes(skb, p->transport, &d, sizeof(d)) && bpf_skb_load_bytes(skb, p->transport, &d, sizeof(d.icmp)))
		return REASON_MALFORMED;
	if (ip.hop_limit != 255 || d.icmp.code)
		return REASON_NEIGHBOUR;
	return p->direction == EGRESS ? discovery_from_phone(skb, p, phone, &e, &d) : discovery_to_phone(phone, &e, &d);
}
