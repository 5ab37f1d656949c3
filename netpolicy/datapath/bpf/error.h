/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * ICMP errors: they pass if the packet that they quote is one of a live flow, seen from the side that the error goes to. What the phone
 * sends must go to whom the quoted packet came from; what it gets may come from any router on the way. They do not lengthen the flow.
 */
#pragma once

#include "flow.h"
#include "packet.h"
#include "parse.h"

/* The addresses and the first 8 bytes of what an error quotes. */
struct quoted {
	__u64 source[2];
	__u64 target[2];
	__u8 protocol;
	__u8 icmp_type;
	__u16 source_port;
	__u16 target_port;
};

/* Returns whether a packet of this kind can have been one of a flow. data are the bytes behind its IP header. */
inline bool read_ports(struct quoted *q, const __be16 *data)
{
	if (q->protocol == IPPROTO_TCP || q->protocol == IPPROTO_UDP) {
		q->source_port = bpf_ntohs(data[0]);
		q->target_port = bpf_ntohs(data[1]);
		return true;
	}
	q->icmp_type = data[0]; /* the lower byte is the first */
	q->source_port = bpf_ntohs(data[2]);
	q->target_port = q->source_port;
	return is_echo(q->protocol, q->icmp_type) || is_echo_reply(q->protocol, q->icmp_type);
}

inline bool read_quoted4(struct __sk_buff *skb, const struct packet *p, struct quoted *q)
{
	struct {
		struct iphdr ip;
		__be16 data[4];
	} in;

	if (bpf_skb_load_bytes(skb, p->transport + sizeof(struct icmp), &in, sizeof(in)))
		return false;
	if (in.ip.version != 4 || in.ip.ihl != 5 || in.ip.frag_off & bpf_htons(IP4_OFFSET))
		return false;
	map4(q->source, in.ip.saddr);
	map4(q->target, in.ip.daddr);
	q->protocol = in.ip.protocol;
	return q->protocol != IPPROTO_ICMPV6 && read_ports(q, in.data);
}

inline bool read_quoted6(struct __sk_buff *skb, const struct packet *p, struct quoted *q)
{
	struct {
		struct ipv6hdr ip;
		__be16 data[4];
	} in;

	if (bpf_skb_load_bytes(skb, p->transport + sizeof(struct icmp), &in, sizeof(in)))
		return false;
	if (in.ip.version != 6)
		return false;
	__builtin_memcpy(q->source, &in.ip.saddr, sizeof(q->source));
	__builtin_memcpy(q->target, &in.ip.daddr, sizeof(q->target));
	q->protocol = in.ip.nexthdr;
	return q->protocol != IPPROTO_ICMP && read_ports(q, in.data);
}

inline bool read_quoted(struct __sk_buff *skb, const struct packet *p, struct quoted *q)
{
	__u32 size = sizeof(struct icmp) + sizeof(struct iphdr) + 8;

	if (p->key.protocol == IPPROTO_ICMPV6)
		return p->room >= size + sizeof(struct ipv6hdr) - sizeof(struct iphdr) && read_quoted6(skb, p, q);
	return p->room >= size && read_quoted4(skb, p, q);
}

function int judge_error(struct __sk_buff *skb, struct packet *p)
{
	struct flow_key key = {};
	struct quoted q = {};
	struct phone *phone;
	struct flow *flow;
	const void *own;
	void *table;
	__u8 sent;

	if (!p)
		return REASON_NO_PHONE;
	table = flow_table(p);
	phone = get_phone(p);
	if (!table || !phone)
		return REASON_NO_PHONE;
	own = p->key.protocol == IPPROTO_ICMPV6 ? phone->ip6 : phone->ip4;
	if (!read_quoted(skb, p, &q))
		return REASON_NO_FLOW;
	/* What is quoted went the other way. */
	sent = p->direction == INGRESS ? EGRESS : INGRESS;
	if (!same(sent == EGRESS ? q.source : q.target, own))
		return REASON_NO_FLOW;
	__builtin_memcpy(key.peer, sent == EGRESS ? q.target : q.source, sizeof(key.peer));
	if (p->direction == EGRESS && !same(key.peer, p->key.peer))
		return REASON_NO_FLOW;
	key.protocol = q.protocol;
	if (q.protocol == IPPROTO_TCP || q.protocol == IPPROTO_UDP)
		key.peer_port = sent == EGRESS ? q.target_port : q.source_port;
	key.phone_port = sent == EGRESS ? q.source_port : q.target_port;
	flow = bpf_map_lookup_elem(table, &key);
	if (!flow || flow->expires < p->now || flow->generation != p->generation)
		return REASON_NO_FLOW;
	if (!key.peer_port && is_echo(q.protocol, q.icmp_type) != (flow->direction == sent))
		return REASON_NO_FLOW;
	p->rule = flow->rule;
	p->name = flow->name;
	return REASON_NONE;
}
