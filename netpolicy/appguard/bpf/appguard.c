/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What decides over the apps of phones. Which of these programs are attached is the loader's choice, by what the kernel obeys:
 *
 *   lsm_...      security hooks (BPF LSM)
 *   modify_...   the functions that call the hooks (fmod_ret), where BPF LSM is not among the security modules. They refuse; launches are
 *                counted and killed by kill_..., which run also when the kernel leaves the others out
 *   kill_...     kprobes on the same functions, which cannot refuse: the process is dead before it runs again
 *   the others   cgroup programs, always
 *
 * Programs on hooks can be preempted, and another one run on the same processor: nothing is kept per processor.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "install.h"
#include "launch.h"
#include "network.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Names all types of layout.h that Go has to know, so that the compiler describes them. Nothing of it is loaded. */
struct shared {
	enum phone_flag phone_flag;
	enum uid_bit uid_bit;
	enum name_bit name_bit;
	enum denial_kind denial_kind;
	enum setting_flag setting_flag;
	struct phone phone;
	struct name_key name_key;
	struct denial_key denial_key;
	struct denial denial;
	struct counters counters;
	struct event event;
	struct settings settings;
};
const struct shared *shared SEC(".types") __attribute__((unused));

/*
 * Arguments are read one by one: hooks have had more or fewer behind those. The kernel asks no further program when one has refused.
 */
#define ARGUMENT(ctx, n, type) ((type)((unsigned long long *)(ctx))[n])

SEC("lsm/task_fix_setuid")
int lsm_setuid(void *ctx)
{
	return judge_cred(ARGUMENT(ctx, 0, const struct cred *), LAUNCH_COUNT | LAUNCH_KILL);
}

SEC("lsm/bprm_creds_from_file")
int lsm_exec(void *ctx)
{
	return judge_cred(ARGUMENT(ctx, 0, const struct linux_binprm *)->cred, LAUNCH_COUNT | LAUNCH_KILL);
}

/* Of an exchange the hook is called for both ways. */
SEC("lsm/inode_rename")
int lsm_rename(void *ctx)
{
	return judge_rename(ARGUMENT(ctx, 1, const struct dentry *), ARGUMENT(ctx, 3, const struct dentry *));
}

SEC("lsm/inode_mkdir")
int lsm_mkdir(void *ctx)
{
	return judge_mkdir(ARGUMENT(ctx, 1, const struct dentry *));
}

SEC("fmod_ret/security_task_fix_setuid")
int modify_setuid(void *ctx)
{
	return judge_cred(ARGUMENT(ctx, 0, const struct cred *), 0);
}

SEC("fmod_ret/security_bprm_creds_from_file")
int modify_exec(void *ctx)
{
	return judge_cred(ARGUMENT(ctx, 0, const struct linux_binprm *)->cred, 0);
}

SEC("fmod_ret/security_inode_rename")
int modify_rename(void *ctx)
{
	const struct dentry *from = ARGUMENT(ctx, 1, const struct dentry *), *to = ARGUMENT(ctx, 3, const struct dentry *);
	int verdict = judge_rename(from, to);

	if (!verdict && ARGUMENT(ctx, 4, unsigned int) & RENAME_EXCHANGE)
		verdict = judge_rename(to, from);
	return verdict;
}

SEC("fmod_ret/security_inode_mkdir")
int modify_mkdir(void *ctx)
{
	return judge_mkdir(ARGUMENT(ctx, 1, const struct dentry *));
}

SEC("kprobe/security_task_fix_setuid")
int kill_setuid(void *ctx)
{
	judge_cred_at(first_argument(ctx), LAUNCH_COUNT | LAUNCH_KILL);
	return 0;
}

SEC("kprobe/security_bprm_creds_from_file")
int kill_exec(void *ctx)
{
	const struct linux_binprm *bprm = first_argument(ctx);

	judge_cred_at(BPF_CORE_READ(bprm, cred), LAUNCH_COUNT | LAUNCH_KILL);
	return 0;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return judge_address();
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return judge_address();
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return judge_address();
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return judge_address();
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	return judge_packet(skb);
}

SEC("cgroup_skb/ingress")
int ingress(struct __sk_buff *skb)
{
	return judge_packet(skb);
}
