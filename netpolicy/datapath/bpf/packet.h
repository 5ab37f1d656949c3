/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is known of the packet that is judged. It lives on the stack of a program and is filled in as the packet is read.
 *
 * The parts of the datapath are global functions, which the verifier looks at once each, whoever calls them. They hand on a struct packet
 * and return a reason; because it crosses them, it holds no pointers. An argument of theirs may be NULL as far as the verifier knows.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <stdbool.h>

#include "layout.h"

#define inline static __attribute__((always_inline)) inline
#define function __attribute__((noinline))

/* How a packet that was read is judged. */
enum kind {
	KIND_FLOW = 0,	    /* it belongs to a flow, or begins one */
	KIND_ARP = 1,
	KIND_NEIGHBOUR = 2, /* neighbour discovery */
	KIND_ERROR = 3,	    /* an ICMP error about a packet of a flow */
	KIND_LATER = 4,	    /* a fragment other than the first */
};

struct packet {
	struct flow_key key; /* of its flow; as far as it was read */
	__u64 now;
	__u64 generation; /* of the policy */
	__u64 name;	  /* id of the name by which it is allowed, or 0 */
	__u32 rule;	  /* that decides */
	__u32 ifindex;	  /* of the phone's link */
	__u32 slot;	  /* of the phone */
	__u32 policy;	  /* slot of its policy */
	__u32 length;	  /* of the frame */
	__u32 segments;	  /* packets that it stands for: a large one is cut later */
	__u32 transport;  /* offset of what follows the IP header */
	__u32 id;	  /* identification of the fragments */
	__u16 room;	  /* bytes from there to the end of the IP packet */
	__u16 offset;	  /* of a fragment, in bytes */
	__u8 direction;
	__u8 dry;	  /* decide, but change nothing */
	__u8 kind;
	__u8 first;	  /* first of several fragments */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 class;	  /* of the peer, enum protected_class */
	__u8 bits;	  /* of the peer's protected prefix */
	__u8 begins;	  /* it belongs to no flow that lives */
	__u8 known;	  /* the link has a phone */
} __attribute__((aligned(8)));

/* Addresses of 16 bytes are aligned to 8 wherever they are held, but in packets. */
typedef __u64 __attribute__((may_alias)) word;
typedef __u32 __attribute__((may_alias)) half;

#define MAPPED bpf_htonl(0x0000ffff) /* third quarter of an IPv4 address in 16 bytes */

inline bool same(const void *a, const void *b)
{
	const word *x = a, *y = b;

	return x[0] == y[0] && x[1] == y[1];
}

/* The address is this IPv4 address; one that is all zero is none. */
inline bool same4(const void *address, __be32 ip4)
{
	const half *x = address;

	return x[3] == ip4 && x[2] == MAPPED;
}

inline void map4(void *address, __be32 ip4)
{
	word *x = address;
	half *y = address;

	x[0] = 0;
	y[2] = MAPPED;
	y[3] = ip4;
}

inline bool same_mac(const void *a, const void *b)
{
	const __u16 *x = a, *y = b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

/*
 * A field of the context as a pointer. Written out, because the compiler likes to keep the address of a field, which the verifier does
 * not allow.
 */
#define context_pointer(skb, field)                                                                                              \
	({                                                                                                                       \
		void *pointer;                                                                                                   \
		asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(pointer) : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, field))); \
		pointer;                                                                                                         \
	})

/* The first bytes of a frame, for reading in place; NULL if it is shorter. Whatever it returned before is not valid after it. */
inline void *head(struct __sk_buff *skb, __u32 size)
{
	void *data = context_pointer(skb, data);

	if (data + size <= context_pointer(skb, data_end))
		return data;
	if (bpf_skb_pull_data(skb, size))
		return NULL;
	data = context_pointer(skb, data);
	return data + size <= context_pointer(skb, data_end) ? data : NULL;
}
