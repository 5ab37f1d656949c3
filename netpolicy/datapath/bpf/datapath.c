/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include "maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Names all types of layout.h that Go has to know, so that the compiler describes them. Nothing of it is in the object. */
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

SEC("tc")
int from_phone(struct __sk_buff *skb)
{
	__u32 index = skb->ifindex;

	if (!bpf_map_lookup_elem(&phones, &index))
		return TC_ACT_SHOT;
	return TC_ACT_SHOT;
}

SEC("tc")
int to_phone(struct __sk_buff *skb __attribute__((unused)))
{
	return TC_ACT_SHOT;
}

SEC("tc")
int judge(struct __sk_buff *skb __attribute__((unused)))
{
	return TC_ACT_SHOT;
}
