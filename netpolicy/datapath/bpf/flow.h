/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Connection tracking: each phone has a table of its own, so that its flows are limited and nobody else's suffer.
 *
 * A flow is begun by a TCP SYN, any UDP, or an ICMP echo that the policy allows; and by any TCP segment with an ACK that the phone sends
 * (it began before its table was lost, or was idle for too long). How long an entry lives is set as long as the host's NAT is told to
 * remember the same flow, and each packet renews it in every state: the phone has no more connections there than entries here.
 *
 * A full table is swept of what has expired, at most once a second; if that finds nothing, the new flow is dropped. A flow that another
 * generation of the policy allowed is judged again, as if it began now, and ends if it is denied.
 */
#pragma once

#include "drop.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "policy.h"

#define SECOND 1000000000ull

#define SAMPLED 1	/* flow.sampled: its end is still to be told */
#define SAMPLED_ENDED 2 /* and this was told */

inline struct settings *get_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

/* How long a flow in a state lives without a packet, in ns. */
inline __u64 lifetime(__u8 protocol, __u8 state)
{
	struct settings *s = get_settings();

	if (!s)
		return 0;
	if (protocol == IPPROTO_UDP)
		return state == FLOW_NEW ? s->udp_new : s->udp_established;
	if (protocol != IPPROTO_TCP)
		return s->icmp;
	switch (state) {
	case FLOW_NEW:
		return s->tcp_new;
	case FLOW_ESTABLISHED:
		return s->tcp_established;
	case FLOW_CLOSING:
		return s->tcp_closing;
	default:
		return s->tcp_closed;
	}
}

inline bool is_syn(const struct packet *p)
{
	return p->key.protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

/* The packet may begin a flow. */
inline bool may_begin(const struct packet *p)
{
	if (p->key.protocol == IPPROTO_UDP)
		return true;
	if (p->key.protocol != IPPROTO_TCP)
		return is_echo(p->key.protocol, p->icmp_type);
	return is_syn(p) || (p->direction == EGRESS && (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_ACK);
}

/* The packet goes in a direction in which the flow has such packets: echoes are sent by who began, replies come back. */
inline bool fits(const struct packet *p, const struct flow *flow)
{
	if (p->key.protocol == IPPROTO_TCP || p->key.protocol == IPPROTO_UDP)
		return true;
	return is_echo(p->key.protocol, p->icmp_type) == (p->direction == flow->direction);
}

/* The state of a TCP flow after a segment. */
inline __u8 tcp_state(const struct packet *p, struct flow *flow)
{
	if (p->tcp_flags & TCP_RST)
		return FLOW_CLOSED;
	if (p->tcp_flags & TCP_FIN) {
		flow->fins |= 1 << (p->direction & 1);
		return flow->state == FLOW_CLOSED ? FLOW_CLOSED : FLOW_CLOSING;
	}
	if (flow->fins == (1 << EGRESS | 1 << INGRESS))
		return FLOW_CLOSED; /* the answer to the second FIN */
	if (flow->state == FLOW_NEW && p->direction != flow->direction)
		return FLOW_ESTABLISHED;
	return flow->state;
}

/* Tells that a flow has ended, once and if it is in the log. */
inline void tell_end(const struct packet *p, const struct flow_key *key, struct flow *flow)
{
	if (flow->sampled != SAMPLED)
		return;
	flow->sampled = SAMPLED_ENDED;
	tell_flow(p, EVENT_CLOSED, key, flow);
}

/* Accounts a packet that passes to its flow. */
inline void touch(const struct packet *p, struct flow *flow)
{
	__u8 state = flow->state;

	if (p->key.protocol == IPPROTO_TCP)
		state = tcp_state(p, flow);
	else if (p->direction != flow->direction)
		state = FLOW_ESTABLISHED;
	flow->packets[p->direction & 1] += p->segments;
	flow->bytes[p->direction & 1] += p->length;
	flow->expires = p->now + lifetime(p->key.protocol, state);
	if (state == flow->state)
		return;
	flow->state = state;
	if (state == FLOW_CLOSED)
		tell_end(p, &p->key, flow);
}

inline void end_flow(const struct packet *p, void *table, struct flow *flow)
{
	tell_end(p, &p->key, flow);
	bpf_map_delete_elem(table, &p->key);
}

struct sweep {
	struct packet packet; /* a copy of what is needed to tell of it */
	__u32 removed;	      /* anything */
};

static long sweep_step(void *table, struct flow_key *key, struct flow *flow, struct sweep *s)
{
	struct flow_key copy = *key;

	if (flow->expires >= s->packet.now)
		return 0;
	tell_end(&s->packet, &copy, flow);
	if (!bpf_map_delete_elem(table, &copy))
		s->removed = 1;
	return 0;
}

/* Removes what has expired from a full table, at most once a second. Returns whether there is room. */
inline bool sweep(const struct packet *p, void *table)
{
	__u32 slot = p->slot;
	struct sweep s = { .packet = { .now = p->now, .slot = p->slot } };
	__u64 *last = bpf_map_lookup_elem(&sweeps, &slot);
	__u64 seen;

	if (!last)
		return false;
	seen = *last;
	if (p->now < seen + SECOND || __sync_val_compare_and_swap(last, seen, p->now) != seen)
		return false;
	bpf_for_each_map_elem(table, sweep_step, &s, 0);
	return s.removed;
}

inline bool insert(const struct packet *p, void *table, const struct flow_key *key, const struct flow *flow)
{
	if (!bpf_map_update_elem(table, key, flow, BPF_ANY))
		return true;
	return sweep(p, table) && !bpf_map_update_elem(table, key, flow, BPF_ANY);
}

inline bool sampled(void)
{
	struct settings *s = get_settings();

	return s && s->sample && bpf_get_prandom_u32() % s->sample == 0;
}

inline void *flow_table(const struct packet *p)
{
	__u32 slot = p->slot;

	return bpf_map_lookup_elem(&flows, &slot);
}

inline void flow_of(const struct packet *p, struct flow *flow)
{
	flow->started = p->now;
	flow->generation = p->generation;
	flow->name = p->name;
	flow->rule = p->rule;
	flow->direction = p->direction;
}

/* Puts the flow that the packet begins, and that the policy allows, into the table. */
function int add_flow(const struct packet *p)
{
	struct flow flow = {};
	struct flow_key key;
	void *table;

	if (!p)
		return REASON_NO_PHONE;
	table = flow_table(p);
	if (!table)
		return REASON_NO_PHONE;
	key = p->key;
	flow_of(p, &flow);
	if (p->key.protocol == IPPROTO_TCP && !is_syn(p)) {
		flow.state = FLOW_ESTABLISHED;
		flow.state = tcp_state(p, &flow);
	}
	flow.packets[p->direction & 1] = p->segments;
	flow.bytes[p->direction & 1] = p->length;
	flow.expires = p->now + lifetime(p->key.protocol, flow.state);
	flow.sampled = sampled() ? SAMPLED : 0;
	if (!insert(p, table, &key, &flow))
		return REASON_FLOW_LIMIT;
	if (flow.sampled)
		tell_flow(p, EVENT_OPENED, &key, &flow);
	return REASON_NONE;
}

inline int begin_flow(struct packet *p)
{
	int reason;

	p->begins = 1;
	if (!may_begin(p))
		return REASON_NO_FLOW;
	reason = judge_policy(p, p->direction, 0);
	if (reason || p->dry)
		return reason;
	return add_flow(p);
}

/* The flow is as the policy has it now; if not, it is judged again. */
inline int judge_again(struct packet *p, void *table, struct flow *flow)
{
	int reason;

	if (flow->generation == p->generation && !(flow->rule == RULE_FORWARD && !forwarded(p))) {
		p->rule = flow->rule;
		p->name = flow->name;
		return REASON_NONE;
	}
	reason = judge_policy(p, flow->direction, flow->name);
	if (p->dry)
		return reason;
	if (reason) {
		end_flow(p, table, flow);
		return reason;
	}
	flow->generation = p->generation;
	flow->rule = p->rule;
	flow->name = p->name;
	return REASON_NONE;
}

/* A packet of TCP, UDP or ICMP echo. */
inline int judge_flow(struct packet *p)
{
	void *table = flow_table(p);
	struct flow *flow;
	int reason;

	if (!table)
		return REASON_NO_PHONE;
	flow = bpf_map_lookup_elem(table, &p->key);
	if (flow && (flow->expires < p->now || (is_syn(p) && flow->state >= FLOW_CLOSING))) {
		if (!p->dry)
			end_flow(p, table, flow);
		flow = NULL;
	}
	if (!flow)
		return begin_flow(p);
	if (!fits(p, flow))
		return REASON_NO_FLOW;
	reason = judge_again(p, table, flow);
	if (!reason && !p->dry)
		touch(p, flow);
	return reason;
}

inline void fragment_key(const struct packet *p, struct flow_key *key)
{
	*key = p->key;
	key->peer_port = p->id >> 16;
	key->phone_port = p->id;
	key->fragment = 1 + p->direction;
}

/* The first fragment of a packet has passed: the others may follow. */
function int remember_fragment(const struct packet *p)
{
	struct settings *s = get_settings();
	struct flow flow = {};
	struct flow_key key;
	void *table;

	if (!p)
		return REASON_NO_PHONE;
	table = flow_table(p);
	if (!table || !s)
		return REASON_NO_PHONE;
	fragment_key(p, &key);
	flow_of(p, &flow);
	flow.expires = p->now + s->fragment;
	return insert(p, table, &key, &flow) ? REASON_NONE : REASON_FLOW_LIMIT;
}

/* A fragment other than the first passes if the first did, under the policy of now. */
function int judge_later(struct packet *p)
{
	struct flow_key key;
	struct flow *first;
	void *table;

	if (!p)
		return REASON_NO_PHONE;
	table = flow_table(p);
	if (!table)
		return REASON_NO_PHONE;
	fragment_key(p, &key);
	first = bpf_map_lookup_elem(table, &key);
	if (!first || first->expires < p->now || first->generation != p->generation)
		return REASON_FRAGMENT;
	p->rule = first->rule;
	p->name = first->name;
	return REASON_NONE;
}
