/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whether a process may become an app's: it has the app's uid in any of its four ids. A set of one id alone would do: with U as its effective,
 * saved or file-system id a process may take U for the others later, or act as U at once.
 */
#pragma once

#include "kernel.h"
#include "verdict.h"

/* What a program does about a launch that is refused. */
#define LAUNCH_COUNT 1
#define LAUNCH_KILL 2

struct ids {
	__u32 uid, suid, euid, fsuid;
};

inline void refuse_launch(struct phone phone, __u32 uid, int how)
{
	struct denial_key key = { .kind = DENIAL_LAUNCH, .number = uid };
	const struct settings *s = settings_now();

	if (how & LAUNCH_COUNT)
		count_denial(slot_of(phone), &key);
	if (how & LAUNCH_KILL && s && !(s->flags & SETTING_NO_KILL))
		bpf_send_signal(SIGKILL);
}

/* Returns 0 or -EPERM. Most processes have one uid four times: it is looked up once. */
inline int judge_launch(const struct ids *ids, int how)
{
	struct phone phone;
	__u32 uid;

	if (!current_phone(&phone))
		return 0;
	uid = ids->uid;
	if (denied_to(phone, uid) & UID_RUN_DENY)
		goto denied;
	uid = ids->euid;
	if (uid != ids->uid && denied_to(phone, uid) & UID_RUN_DENY)
		goto denied;
	uid = ids->suid;
	if (uid != ids->uid && uid != ids->euid && denied_to(phone, uid) & UID_RUN_DENY)
		goto denied;
	uid = ids->fsuid;
	if (uid != ids->uid && uid != ids->euid && denied_to(phone, uid) & UID_RUN_DENY)
		goto denied;
	return 0;
denied:
	refuse_launch(phone, uid, how);
	return -EPERM;
}

/* For programs whose arguments the verifier knows. */
inline int judge_cred(const struct cred *cred, int how)
{
	struct ids ids = {
		.uid = cred->uid.val,
		.suid = cred->suid.val,
		.euid = cred->euid.val,
		.fsuid = cred->fsuid.val,
	};

	return judge_launch(&ids, how);
}

/* For those that have an address alone. */
inline int judge_cred_at(const struct cred *cred, int how)
{
	struct ids ids = {
		.uid = BPF_CORE_READ(cred, uid.val),
		.suid = BPF_CORE_READ(cred, suid.val),
		.euid = BPF_CORE_READ(cred, euid.val),
		.fsuid = BPF_CORE_READ(cred, fsuid.val),
	};

	return judge_launch(&ids, how);
}
