/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps. All are pinned by their names, so that they outlive the programs as well as the process; what is in them is told in layout.h. The
 * loader sets max_entries by how many phones a host may have, and those of inner maps by what goes in.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"

#define MAX_PHONES 1024
#define MAX_DENIALS 256

/* By id of the phone's cgroup. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_PHONES);
	__type(key, __u64);
	__type(value, struct phone);
} phones SEC(".maps");

/* What is put into "names"; the value is of enum name_bit. */
struct name_trie {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct name_key);
	__type(value, __u32);
};

/* Phones whose names are the same share a trie. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2 * MAX_PHONES);
	__type(key, __u32);
	__array(values, struct name_trie);
} names SEC(".maps");

/* What is put into "uids": by app id; the value is of enum uid_bit. */
struct uid_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
};

/* Two places for each slot: one in force, one for its successor. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2 * MAX_PHONES);
	__type(key, __u32);
	__array(values, struct uid_table);
} uids SEC(".maps");

/* What is put into "denials". */
struct denial_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_DENIALS);
	__type(key, struct denial_key);
	__type(value, struct denial);
};

/* By slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_PHONES);
	__type(key, __u32);
	__array(values, struct denial_table);
} denials SEC(".maps");

/* By slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PHONES);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} events SEC(".maps");

/* One element. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");
