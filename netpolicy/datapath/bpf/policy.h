/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Asking a policy about a new flow. Objects are drawn in layout.h; policy.Object.Judge walks them in the same way.
 *
 * All loops are bpf_loop's: the verifier looks at their bodies once, and they end after the bounds below whatever an object holds. An
 * index that an object does not have ends a search with nothing found.
 */
#pragma once

#include "maps.h"
#include "packet.h"
#include "parse.h"

#define MAX_SEARCH 20 /* steps of a binary search: an object has at most 2^20 cells */
#define MAX_CHAIN 129 /* nodes from one to the last of its parents: one for each length of an IPv6 prefix */
#define NO_CELL 0xffffffffu

inline __u32 low(__u64 w)
{
	return w;
}

inline __u32 high(__u64 w)
{
	return w >> 32;
}

/* A binary search for the last cell of a table that is not greater than a key, of two words; only the bits in mask are compared. */
struct search {
	void *object;
	__u64 key[2];
	__u64 mask[2];
	__u32 first;
	__u32 count;
	__u32 found;
};

static long search_step(__u32 step __attribute__((unused)), struct search *s)
{
	__u32 half = s->count / 2, middle = s->first + half;
	struct cell *cell;
	__u64 a, b;

	if (!s->count)
		return 1;
	cell = bpf_map_lookup_elem(s->object, &middle);
	if (!cell)
		return 1;
	a = cell->word[0] & s->mask[0];
	b = cell->word[1] & s->mask[1];
	if (a < s->key[0] || (a == s->key[0] && b <= s->key[1])) {
		s->found = middle;
		s->first = middle + 1;
		s->count -= half + 1;
	} else {
		s->count = half;
	}
	return 0;
}

inline struct cell *search_table(struct search *s, __u64 table)
{
	s->first = low(table);
	s->count = high(table);
	s->found = NO_CELL;
	bpf_loop(MAX_SEARCH, search_step, s, 0);
	return bpf_map_lookup_elem(s->object, &s->found);
}

/* The cell of a table of addresses that holds for an address. */
inline struct cell *search_address(void *object, __u64 table, const __u8 *address)
{
	const word *x = (const word *)address;
	struct search s = { .object = object, .key = { bpf_be64_to_cpu(x[0]), bpf_be64_to_cpu(x[1]) }, .mask = { ~0ull, ~0ull } };

	return search_table(&s, table);
}

/* The best rule that was found so far in the spans of nodes and their parents. */
struct walk {
	void *object;
	__u32 key;  /* protocol and port, as spans have them */
	__u32 node; /* to look at next */
	__u32 rule; /* RULE_DEFAULT: none yet */
	__u32 bits;
	__u64 action;
};

static long walk_step(__u32 step __attribute__((unused)), struct walk *w)
{
	struct search s = { .object = w->object, .key = { w->key }, .mask = { 0xffffffff } };
	struct cell *node, *span;

	if (!w->node)
		return 1;
	node = bpf_map_lookup_elem(w->object, &w->node);
	if (!node)
		return 1;
	w->node = node->word[1];
	span = search_table(&s, node->word[0]);
	if (span && high(span->word[0]) >= w->key && low(span->word[1]) < w->rule) {
		w->rule = low(span->word[1]);
		w->bits = high(span->word[1]);
		w->action = span->word[2];
	}
	return 0;
}

/* The names by which the peer is open. */
struct naming {
	struct walk walk;
	struct name_value *leases; /* or NULL */
	__u64 now;
	__u64 table;	  /* of names */
	__u64 remembered; /* a name that counts without a lease: that of a flow that is judged again; or 0 */
	__u64 name;	  /* by which the best rule was found, or 0 */
	__u32 direction;
};

static long name_step(__u32 i, struct naming *n)
{
	struct search s = { .object = n->walk.object, .mask = { ~0ull } };
	__u32 rule = n->walk.rule;
	struct cell *name;

	if (i >= MAX_NAMES)
		s.key[0] = n->remembered;
	else if (n->leases && n->leases->lease[i].until > n->now)
		s.key[0] = n->leases->lease[i].id;
	if (!s.key[0])
		return 0;
	name = search_table(&s, n->table);
	if (!name || name->word[0] != s.key[0])
		return 0;
	n->walk.node = n->direction == EGRESS ? low(name->word[1]) : high(name->word[1]);
	bpf_loop(MAX_CHAIN, walk_step, &n->walk, 0);
	if (n->walk.rule != rule)
		n->name = s.key[0];
	return 0;
}

/* Protocol and port of a flow as spans have them. */
inline __u32 span_key(const struct packet *p, __u8 direction)
{
	__u32 class = CLASS_ICMP;
	__u32 port = direction == EGRESS ? p->key.peer_port : p->key.phone_port;

	if (p->key.protocol == IPPROTO_TCP)
		class = CLASS_TCP;
	else if (p->key.protocol == IPPROTO_UDP)
		class = CLASS_UDP;
	else
		port = 0;
	return class << 16 | port;
}

inline bool is_gateway(const struct packet *p, const struct phone *phone)
{
	return same(phone->gateway4, p->key.peer) || same(phone->gateway6, p->key.peer);
}

/* What the peer's address is protected as, into p->class and p->bits. Returns false if that cannot be known. */
inline bool classify(struct packet *p, const struct phone *phone)
{
	struct cell *header, *cell;
	__u32 zero = 0;
	void *object;

	object = bpf_map_lookup_elem(&protected, &zero);
	header = get_header(object);
	if (!header)
		return false;
	cell = search_address(object, header->word[2], p->key.peer);
	if (!cell)
		return false;
	p->bits = cell->word[2];
	p->class = cell->word[3];
	if (is_gateway(p, phone)) {
		p->bits = 128;
		p->class = PROTECTED_HOST;
	}
	return true;
}

/* What of the gateway every phone may reach: the name server, and echo. */
inline bool gateway_service(const struct packet *p)
{
	if (p->key.protocol == IPPROTO_TCP || p->key.protocol == IPPROTO_UDP)
		return p->key.peer_port == 53;
	return true; /* no other ICMP begins a flow */
}

/* A port that the host forwards to the phone. Other phones are not who it is for, though they may know the phone's own address. */
inline bool forwarded(const struct packet *p)
{
	struct forward key = { .slot = p->slot, .port = p->key.phone_port, .protocol = p->key.protocol };

	if (key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP)
		return false;
	return p->class != PROTECTED_PHONE && bpf_map_lookup_elem(&forwards, &key);
}

inline bool is_name_server(const struct packet *p)
{
	if (p->key.protocol != IPPROTO_TCP && p->key.protocol != IPPROTO_UDP)
		return false;
	return p->key.peer_port == 53 || p->key.peer_port == 853;
}

/* The rule with the lowest number that matches, into walk. */
inline void find_rule(const struct packet *p, struct naming *n, const struct cell *header)
{
	struct name_key key = { .slot = p->slot };
	struct cell *cell, *more;
	__u32 one = 1;

	cell = search_address(n->walk.object, header->word[n->direction == EGRESS ? 2 : 3], p->key.peer);
	if (cell) {
		n->walk.node = cell->word[2];
		bpf_loop(MAX_CHAIN, walk_step, &n->walk, 0);
	}
	more = bpf_map_lookup_elem(n->walk.object, &one);
	if (!more || !(header->word[1] & POLICY_NAMES))
		return;
	n->table = more->word[0];
	__builtin_memcpy(key.address, p->key.peer, sizeof(key.address));
	n->leases = bpf_map_lookup_elem(&names, &key);
	bpf_loop(MAX_NAMES + 1, name_step, n, 0);
}

/* What the rule that was found says, and the default if there is none. */
inline int judge_rule(struct packet *p, const struct naming *n, __u64 flags)
{
	const struct walk *w = &n->walk;
	bool allow = w->action;

	p->rule = w->rule;
	p->name = n->name;
	if (w->rule == RULE_DEFAULT)
		allow = n->direction == EGRESS && flags & POLICY_ALLOW;
	if (!allow)
		return w->rule == RULE_DEFAULT ? REASON_DEFAULT : REASON_RULE;
	if (p->class != PROTECTED_NO && w->bits < p->bits)
		return REASON_PROTECTED;
	if (n->direction == EGRESS && flags & POLICY_NAMES && is_name_server(p) && !w->bits)
		return REASON_NAME_SERVER;
	return REASON_NONE;
}

/*
 * Judges a flow that is begun in a direction, by what the phone's policy says now; remembered is the name that it was allowed by before,
 * or 0. Returns a reason; p->rule, class, bits and name say why, and p->generation of which policy.
 */
function int judge_policy(struct packet *p, __u32 direction, __u64 remembered)
{
	struct naming n = { .walk.rule = RULE_DEFAULT, .remembered = remembered, .direction = direction };
	struct cell *header;
	struct phone *phone;

	if (!p)
		return REASON_NO_PHONE;
	phone = get_phone(p);
	n.walk.object = get_policy(p);
	header = get_header(n.walk.object);
	if (!phone || !header || !classify(p, phone))
		return REASON_NO_POLICY;
	p->generation = header->word[0];
	p->name = 0;
	if (direction == EGRESS && is_gateway(p, phone) && gateway_service(p)) {
		p->rule = RULE_GATEWAY;
		return REASON_NONE;
	}
	if (direction == INGRESS && forwarded(p)) {
		p->rule = RULE_FORWARD;
		return REASON_NONE;
	}
	n.walk.key = span_key(p, direction);
	n.now = p->now;
	find_rule(p, &n, header);
	return judge_rule(p, &n, header->word[1]);
}
