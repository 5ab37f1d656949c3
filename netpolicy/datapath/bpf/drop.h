/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is told of packets: counters of what passed and of what was dropped and why, one element of "denials" for all dropped packets
 * that are alike, and an event for each new element. Nothing here changes a verdict.
 *
 * For each phone: the counts in "denials" (those that the reader took away included) and counters.unlisted together are the sum of
 * counters.dropped, but for what is quiet and counted only: REASON_MULTICAST, and REASON_NEIGHBOUR in neighbour discovery and in what the
 * host asks by ARP. Every Linux and every Android sends such packets when it starts. What a phone asks by ARP about others is listed: a
 * phone that looks for its neighbours shows by nothing else. Packets of links without a phone (REASON_NO_PHONE) are not counted at all.
 */
#pragma once

#include "maps.h"
#include "packet.h"

inline struct counters *counters_of(const struct packet *p)
{
	__u32 slot = p->slot;

	return bpf_map_lookup_elem(&counters, &slot);
}

inline void count_passed(const struct packet *p)
{
	struct counters *c = counters_of(p);

	if (!c)
		return;
	c->packets[p->direction & 1] += p->segments;
	c->bytes[p->direction & 1] += p->length;
}

/* Room for an event, which the caller fills and submits; NULL and counted if there is none. */
inline struct event *new_event(const struct packet *p, __u32 kind)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	struct counters *c;

	if (event) {
		__builtin_memset(event, 0, sizeof(*event));
		event->kind = kind;
		event->slot = p->slot;
		event->time = p->now;
		return event;
	}
	c = counters_of(p);
	if (c)
		c->lost++;
	return NULL;
}

inline void tell_flow(const struct packet *p, __u32 kind, const struct flow_key *key, const struct flow *flow)
{
	struct event *event = new_event(p, kind);

	if (!event)
		return;
	event->key = *key;
	event->flow = *flow;
	bpf_ringbuf_submit(event, 0);
}

inline void tell_denial(const struct packet *p, const struct denial_key *key)
{
	struct event *event = new_event(p, EVENT_DENIAL);

	if (!event)
		return;
	event->denial = *key;
	bpf_ringbuf_submit(event, 0);
}

inline bool add_to_denial(const struct packet *p, void *table, const struct denial_key *key)
{
	struct denial *denial = bpf_map_lookup_elem(table, key);

	if (!denial)
		return false;
	__sync_fetch_and_add(&denial->count, p->segments);
	__sync_fetch_and_add(&denial->bytes, p->length);
	denial->last = p->now;
	return true;
}

/* Lists a dropped packet. Returns whether there was room. */
inline bool list_denial(const struct packet *p, __u8 reason)
{
	__u32 slot = p->slot;
	struct denial_key key = {
		.rule = p->rule,
		.port = p->direction == EGRESS ? p->key.peer_port : p->key.phone_port,
		.protocol = p->key.protocol,
		.direction = p->direction,
		.reason = reason,
		.class = p->class,
	};
	struct denial new = { .count = p->segments, .bytes = p->length, .first = p->now, .last = p->now };
	void *table = bpf_map_lookup_elem(&denials, &slot);

	if (!table)
		return false;
	__builtin_memcpy(key.peer, p->key.peer, sizeof(key.peer));
	if (key.protocol == IPPROTO_ICMP || key.protocol == IPPROTO_ICMPV6)
		key.port = 0;
	if (add_to_denial(p, table, &key))
		return true;
	if (bpf_map_update_elem(table, &key, &new, BPF_NOEXIST))
		return add_to_denial(p, table, &key); /* another processor was first, or the table is full */
	tell_denial(p, &key);
	return true;
}

/* Dropped packets that everybody sends, and that are not listed. */
inline bool is_quiet(const struct packet *p, __u32 reason)
{
	if (reason == REASON_NEIGHBOUR)
		return p->kind != KIND_ARP || p->direction != EGRESS;
	return reason == REASON_MULTICAST;
}

/* Counts a packet that is dropped, and lists it unless it is quiet. */
function int count_dropped(const struct packet *p, __u32 reason)
{
	struct counters *c;

	if (!p || !p->known || reason >= MAX_REASONS)
		return 0;
	c = counters_of(p);
	if (!c)
		return 0;
	c->dropped[reason] += p->segments;
	if (is_quiet(p, reason))
		return 0;
	if (!list_denial(p, reason))
		c->unlisted += p->segments;
	return 0;
}
