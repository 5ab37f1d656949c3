/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is told of refusals: counters, one element of "denials" for all refusals that are alike, and an event for each new element. Nothing here
 * changes a verdict.
 *
 * For each phone and kind: the counts in "denials" (those that the reader took away included) and counters.unlisted together are
 * counters.denied. All is added atomically: LSM programs can be preempted, and another of them may run on the same processor meanwhile.
 */
#pragma once

#include "maps.h"

#define inline static __attribute__((always_inline)) inline

inline void tell(__u32 slot, __u32 kind, struct counters *c)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		__sync_fetch_and_add(&c->lost, 1);
		return;
	}
	event->slot = slot;
	event->kind = kind;
	bpf_ringbuf_submit(event, 0);
}

inline bool add_to_denial(void *table, const struct denial_key *key, __u64 now)
{
	struct denial *denial = bpf_map_lookup_elem(table, key);

	if (!denial)
		return false;
	__sync_fetch_and_add(&denial->count, 1);
	denial->last = now;
	return true;
}

/* Lists a refusal. Returns whether there was room. */
inline bool list_denial(__u32 slot, const struct denial_key *key, struct counters *c)
{
	__u64 now = bpf_ktime_get_ns();
	struct denial new = { .count = 1, .first = now, .last = now };
	void *table = bpf_map_lookup_elem(&denials, &slot);

	if (!table)
		return false;
	if (add_to_denial(table, key, now))
		return true;
	if (bpf_map_update_elem(table, key, &new, BPF_NOEXIST))
		return add_to_denial(table, key, now); /* another was first, or the table is full */
	tell(slot, key->kind, c);
	return true;
}

inline void count_denial(__u32 slot, const struct denial_key *key)
{
	struct counters *c = bpf_map_lookup_elem(&counters, &slot);
	__u32 kind = key->kind;

	if (!c || kind >= DENIAL_KINDS)
		return;
	__sync_fetch_and_add(&c->denied[kind], 1);
	if (!list_denial(slot, key, c))
		__sync_fetch_and_add(&c->unlisted[kind], 1);
}
