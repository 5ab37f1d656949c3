/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps of the datapath. All are pinned by their names, so that they outlive the programs as well as the process; what is in
 * them is told in layout.h. max_entries of those "by slot" is how many phones a host may have, and of the flow tables how many
 * flows a phone may have: the loader may set others.
 */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"

#define MAX_PHONES 1024
#define MAX_FLOWS 4096
#define MAX_DENIALS 256
#define MAX_NAMED 262144 /* pairs of a phone and an address that has a name */

/* By ifindex of the host's end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PHONES);
	__type(key, __u32);
	__type(value, struct phone);
} phones SEC(".maps");

/* What is put into "flows". */
struct flow_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
};

/* By slot of the phone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_PHONES);
	__type(key, __u32);
	__array(values, struct flow_table);
} flows SEC(".maps");

/* What is put into "policies" and "protected": each as long as its object, which BPF_F_INNER_MAP permits. */
struct object {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cell);
};

/* By slot of the policy. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_POLICIES);
	__type(key, __u32);
	__array(values, struct object);
} policies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct object);
} protected SEC(".maps");

/* The value says nothing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct forward);
	__type(value, __u8);
} forwards SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_NAMED);
	__type(key, struct name_key);
	__type(value, struct name_value);
} names SEC(".maps");

/* Both addresses of each phone. The programs do not read it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2 * MAX_PHONES);
	__type(key, struct client_key);
	__type(value, struct client);
} clients SEC(".maps");

/* By slot of the phone. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_PHONES);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* What is put into "denials". */
struct denial_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_DENIALS);
	__type(key, struct denial_key);
	__type(value, struct denial);
};

/* By slot of the phone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_PHONES);
	__type(key, __u32);
	__array(values, struct denial_table);
} denials SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

/* When a phone's flow table was last swept from the packet path, by slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PHONES);
	__type(key, __u32);
	__type(value, __u64);
} sweeps SEC(".maps");

/* One element, which Go writes before it attaches a program and may write again at any time. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_RDONLY_PROG);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");
