/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whose process, socket or packet it is, and what the phone's tables say of an app. */
#pragma once

#include "denial.h"
#include "maps.h"

inline const struct settings *settings_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

/* Finds a phone by its cgroup. There is none for what is outside of phones, and for phones on no list. */
inline bool find_phone(__u64 cgroup, struct phone *phone)
{
	/* One load: the kernel may give the element to another phone as soon as this one's has been replaced. */
	const volatile __u64 *found = bpf_map_lookup_elem(&phones, &cgroup);
	union {
		__u64 word;
		struct phone phone;
	} u;

	if (!found)
		return false;
	u.word = *found;
	*phone = u.phone;
	return true;
}

/* The phone that the current task belongs to. */
inline bool current_phone(struct phone *phone)
{
	const struct settings *s = settings_now();

	return s && find_phone(bpf_get_current_ancestor_cgroup_id(s->level), phone);
}

inline __u32 slot_of(struct phone phone)
{
	return phone.uids / 2;
}

/* What an app may not do: of enum uid_bit. A table that is missing denies all apps: nothing that works as it should leaves one out. */
inline __u32 denied_to(struct phone phone, __u32 uid)
{
	__u32 app = uid % PER_USER, all = UID_RUN_DENY | UID_NETWORK_DENY;
	void *table;
	__u32 *bits;

	if (app >= FIRST_ISOLATED)
		return phone.flags & PHONE_ISOLATED_DENY ? all : 0;
	if (app >= END_SANDBOX)
		return 0;
	if (app >= FIRST_SANDBOX)
		app -= FIRST_SANDBOX - FIRST_APP;
	if (app < FIRST_APP && !(phone.flags & PHONE_SYSTEM))
		return 0;
	table = bpf_map_lookup_elem(&uids, &phone.uids);
	bits = table ? bpf_map_lookup_elem(table, &app) : NULL;
	if (bits)
		return *bits;
	if (app < FIRST_APP)
		return 0;
	return !table || phone.flags & PHONE_UNKNOWN_DENY ? all : 0;
}
