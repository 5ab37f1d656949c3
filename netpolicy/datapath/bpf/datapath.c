/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What decides over the packets of phones: from_phone is attached to the ingress of the host's end of each phone's link, to_phone to its
 * egress, and judge is run by hand.
 *
 * A packet is judged in this order, and the first of these that says no gives the reason:
 *
 *   1. the link has a phone (NO_PHONE), which is not cut off (CUT) and has a policy (NO_POLICY)
 *   2. it can be read in one way only, and is from the phone: parse.h
 *   3. ARP and neighbour discovery concern the phone itself: neighbour.h
 *   4. it belongs to a flow that the policy of now allows, or may begin one: flow.h, policy.h; is an error about one: error.h; or a fragment
 *      of a packet that passed
 *
 * What passes goes on to whatever else is attached to the link.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "drop.h"
#include "error.h"
#include "flow.h"
#include "maps.h"
#include "neighbour.h"
#include "packet.h"
#include "parse.h"
#include "policy.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Names all types of layout.h that Go has to know, so that the compiler describes them. Nothing of it is loaded. */
struct shared {
	enum reason reason;
	enum direction direction;
	enum protocol_class protocol_class;
	enum phone_flag phone_flag;
	enum policy_flag policy_flag;
	enum protected_class protected_class;
	enum flow_state flow_state;
	enum event_kind event_kind;
	struct cell cell;
	struct event event;
	struct settings settings;
	struct flow_key flow_key;
	struct denial_key denial_key;
	struct denial denial;
	struct verdict verdict;
};
const struct shared *shared SEC(".types") __attribute__((unused));

inline int judge_kind(struct __sk_buff *skb, struct packet *p)
{
	int reason;

	switch (p->kind) {
	case KIND_FLOW:
		reason = judge_flow(p);
		return reason || !p->first || p->dry ? reason : remember_fragment(p);
	case KIND_ARP:
		return judge_arp(skb, p);
	case KIND_NEIGHBOUR:
		return judge_discovery(skb, p);
	case KIND_ERROR:
		return judge_error(skb, p);
	default:
		return judge_later(p);
	}
}

/* Decides over a packet. Returns a reason. */
inline int decide(struct __sk_buff *skb, struct packet *p)
{
	int reason;

	p->rule = RULE_NONE;
	reason = read_packet(skb, p);
	return reason ?: judge_kind(skb, p);
}

/* Decides over a packet and accounts for it. Returns whether it passes. */
inline bool pass(struct __sk_buff *skb, struct packet *p)
{
	int reason = decide(skb, p);

	if (reason)
		count_dropped(p, reason);
	else
		count_passed(p);
	return !reason;
}

SEC("tc")
int from_phone(struct __sk_buff *skb)
{
	struct packet p = { .direction = EGRESS };

	return pass(skb, &p) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int to_phone(struct __sk_buff *skb)
{
	struct packet p = { .direction = INGRESS };

	return pass(skb, &p) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int judge(struct __sk_buff *skb)
{
	struct packet p = { .direction = skb->mark & 1, .dry = 1 };
	int reason = decide(skb, &p);

	skb->cb[0] = (__u8)reason | p.class << 8 | p.bits << 16 | (__u32)p.begins << 24;
	skb->cb[1] = p.rule;
	skb->cb[2] = p.name;
	skb->cb[3] = p.name >> 32;
	skb->cb[4] = p.generation;
	return reason ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}
