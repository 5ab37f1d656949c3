/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whether an app has a network. connect and sendmsg fail at once for the app's own processes; packets are dropped by the owner of their socket,
 * however it came to whoever uses it, also of connections that were there before.
 */
#pragma once

#include "verdict.h"

#define PASS 1
#define REFUSE 0

inline int judge_network(struct phone phone, __u32 uid)
{
	struct denial_key key = { .kind = DENIAL_NETWORK, .number = uid };

	if (!(denied_to(phone, uid) & UID_NETWORK_DENY))
		return PASS;
	count_denial(slot_of(phone), &key);
	return REFUSE;
}

inline int judge_address(void)
{
	struct phone phone;

	if (!current_phone(&phone) || !(phone.flags & PHONE_NETWORK))
		return PASS;
	return judge_network(phone, (__u32)bpf_get_current_uid_gid());
}

inline int judge_packet(struct __sk_buff *skb)
{
	const struct settings *s = settings_now();
	struct phone phone;

	if (!s || !find_phone(bpf_skb_ancestor_cgroup_id(skb, s->level), &phone) || !(phone.flags & PHONE_NETWORK))
		return PASS;
	return judge_network(phone, bpf_get_socket_uid(skb));
}
