/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs read of the kernel's own structs: the members alone that they need, which are found by the type information of the kernel
 * that runs (CO-RE).
 */
#pragma once

#include <linux/types.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t uid;
	kuid_t suid;
	kuid_t euid;
	kuid_t fsuid;
};

struct linux_binprm {
	struct cred *cred;
};

struct inode {
	__u16 i_mode;
};

struct qstr {
	const unsigned char *name;
};

struct dentry;

struct super_block {
	struct dentry *s_root;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
};

/* Registers when a function begins, on each architecture. */
struct pt_regs___amd64 {
	unsigned long di;
};

struct pt_regs___arm64 {
	__u64 regs[31];
};

#pragma clang attribute pop

/* include/uapi/linux/stat.h */
#define S_IFMT 00170000
#define S_IFDIR 0040000
/* include/uapi/linux/fs.h */
#define RENAME_EXCHANGE 2
/* include/uapi/asm-generic/errno-base.h, signal.h */
#define EPERM 1
#define SIGKILL 9

/* The first argument of the function that a kprobe is on. */
static __attribute__((always_inline)) inline void *first_argument(void *registers)
{
	void *argument = 0;

	if (bpf_core_field_exists(((struct pt_regs___amd64 *)0)->di))
		bpf_core_read(&argument, sizeof(argument), &((struct pt_regs___amd64 *)registers)->di);
	else
		bpf_core_read(&argument, sizeof(argument), &((struct pt_regs___arm64 *)registers)->regs[0]);
	return argument;
}
