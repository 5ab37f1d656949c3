/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The structs that the programs share with Go, and the maps that hold them. bpf2go makes the Go side from these types; a test compares sizes
 * and offsets. To change one is to change the layout: LAYOUT names the directory of the pins, so that a new layout never meets an old map.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC. Uids are those of the host's user namespace.
 */
#pragma once

#include <linux/types.h>

#define LAYOUT 1

#define NAME_SIZE 256 /* the longest name of a directory, and a zero byte */

/*
 * How Android gives uids (android.os.Process, android.os.UserHandle): uid = user * PER_USER + app id.
 */
#define PER_USER 100000
#define FIRST_APP 10000	     /* below: the system's own */
#define FIRST_SANDBOX 20000  /* the SDK sandbox of app FIRST_APP + n has FIRST_SANDBOX + n */
#define END_SANDBOX 30000    /* above: nothing that is installed */
#define FIRST_ISOLATED 90000 /* isolated processes, those of app zygotes among them, up to PER_USER */

enum phone_flag {
	PHONE_UNLISTED_DENY = 1,  /* a name that the trie does not match cannot be installed */
	PHONE_UNKNOWN_DENY = 2,	  /* an app that the table of uids does not have neither runs nor has a network */
	PHONE_ISOLATED_DENY = 4,  /* nor does an isolated process */
	PHONE_SYSTEM = 8,	  /* the table has app ids below FIRST_APP */
	PHONE_NETWORK = 16,	  /* some app may have no network: else packets are not looked at */
};

/* Which tables a phone has. It is read in one load: what changes it changes all of it. The slot is uids / 2. */
struct phone {
	__u32 uids;  /* index in "uids": 2 * slot or 2 * slot + 1 */
	__u16 names; /* index in "names" */
	__u16 flags; /* enum phone_flag */
} __attribute__((aligned(8)));

/* What a table of uids says of an app id. 0: it is known and may do all. */
enum uid_bit {
	UID_RUN_DENY = 1,
	UID_NETWORK_DENY = 2,
};

/* What a trie says of a name. */
enum name_bit {
	NAME_INSTALL_DENY = 1,
};

/*
 * A key of a trie of names. An exact name has its zero byte in the prefix (8 * (length + 1) bits), the pattern "com.example.*" is "com.example."
 * without one (8 * 12 bits): the longest match is the most specific. Look-ups have all bits, padded with zeros.
 */
struct name_key {
	__u32 bits;
	__u8 name[NAME_SIZE];
};

enum denial_kind {
	DENIAL_INSTALL = 1,
	DENIAL_LAUNCH = 2,
	DENIAL_NETWORK = 3,
	DENIAL_KINDS,
};

/* number and name are where a struct name_key has bits and name: the same memory serves both, on a small stack. */
struct denial_key {
	__u32 kind;   /* enum denial_kind */
	__u32 number; /* the uid */
	__u8 name[NAME_SIZE]; /* DENIAL_INSTALL: the package */
};

struct denial {
	__u64 count;
	__u64 first;
	__u64 last;
};

/* By slot. Programs that can be interrupted by another of their kind add to them: always atomically. */
struct counters {
	__u64 denied[DENIAL_KINDS]; /* by enum denial_kind */
	__u64 unlisted[DENIAL_KINDS]; /* of them, those that found no room in the table of denials */
	__u64 lost;		    /* events that found no room */
};

/* Says that the table of denials of a slot has a new element. */
struct event {
	__u32 slot;
	__u32 kind; /* enum denial_kind */
};

enum setting_flag {
	SETTING_NO_KILL = 1, /* refused launches are not killed: to measure whether the refusal alone holds */
};

struct settings {
	__u32 level; /* of the phones' cgroups, below the root of cgroup v2 */
	__u32 flags; /* enum setting_flag */
};
