/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The structs that the programs of the datapath share with Go, and the maps that hold them. bpf2go makes the Go side from these types;
 * a test compares sizes and offsets. To change one is to change the layout: LAYOUT names the directory of the pins, so that a new
 * layout never meets an old map.
 *
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2), unless a field says otherwise.
 * Ports are in host order. Times are nanoseconds of CLOCK_MONOTONIC, as bpf_ktime_get_coarse_ns has them.
 */
#pragma once

#include <linux/types.h>

#define LAYOUT 1

#define MAX_NAMES 8	  /* names by which one address is open for one phone */
#define MAX_REASONS 32	  /* room in struct counters */
#define MAX_POLICIES 1024 /* slots of policies */

/* Why a packet was dropped. The numbers are stable: they are in counters, denials and events. */
enum reason {
	REASON_NONE = 0,	   /* it was not dropped */
	REASON_NO_PHONE = 1,	   /* the link has no phone yet: nothing passes before its policy is loaded */
	REASON_NO_POLICY = 2,	   /* the phone's policy is missing */
	REASON_CUT = 3,		   /* the phone is cut off the network */
	REASON_NOT_IP = 4,	   /* neither IP nor ARP */
	REASON_VLAN = 5,	   /* a VLAN tag */
	REASON_MALFORMED = 6,	   /* truncated, or lengths that do not agree */
	REASON_IP_OPTIONS = 7,	   /* IPv4 options */
	REASON_IP6_EXTENSION = 8,  /* an IPv6 extension header other than fragment */
	REASON_FRAGMENT = 9,	   /* a fragment without a first one that passed, or that could overwrite its ports */
	REASON_SPOOFED_MAC = 10,   /* the source MAC is not the phone's */
	REASON_SPOOFED_IP = 11,	   /* the source address is not the phone's; in ARP and neighbour discovery too */
	REASON_NEIGHBOUR = 12,	   /* ARP or neighbour discovery that no phone has to speak */
	REASON_PROTOCOL = 13,	   /* neither TCP, UDP nor a kind of ICMP that is let through */
	REASON_MULTICAST = 14,	   /* to a multicast or broadcast address */
	REASON_PROTECTED = 15,	   /* to or from an address that a policy must name to open, see enum protected_class */
	REASON_RULE = 16,	   /* a rule denies it */
	REASON_DEFAULT = 17,	   /* no rule decides it and the default denies it */
	REASON_NO_FLOW = 18,	   /* it belongs to no flow and cannot begin one */
	REASON_FLOW_LIMIT = 19,	   /* the phone has as many flows as it may have */
	REASON_NAME_SERVER = 20,   /* DNS past the gateway, under a policy with names */
	REASON_COUNT,
};

enum direction {
	EGRESS = 0,  /* begun by the phone */
	INGRESS = 1, /* begun by its peer */
};

/* Protocols as rules know them: the upper half of a span's keys. */
enum protocol_class {
	CLASS_TCP = 0,
	CLASS_UDP = 1,
	CLASS_ICMP = 2, /* ICMP and ICMPv6; the port is 0 */
};

enum phone_flag {
	PHONE_CUT = 1,	 /* nothing passes */
	PHONE_DHCP = 2,	 /* kept for answers to DHCP; no program looks at it */
};

/* Which link is which phone: hash "phones", by the ifindex of the host's end. */
struct phone {
	__u32 slot;	/* index in the maps that have an element for each phone */
	__u32 policy;	/* slot of the policy, index in "policies" */
	__u32 flags;	/* enum phone_flag */
	__u8 prefix4;	/* length of the phone's IPv4 prefix, 0..32 */
	__u8 pad[3];
	__u8 ip4[16];	/* the phone's address; all zero: it has none */
	__u8 ip6[16];
	__u8 gateway4[16];
	__u8 gateway6[16];
	__u8 mac[6];	     /* of the phone's end */
	__u8 gateway_mac[6]; /* of the host's end */
};

/*
 * Policies are immutable objects: arrays of cells of four 64-bit words, in host order. "policies" is an array of maps: one write
 * to it puts another object in place, for all phones of the policy at once. "protected" has one object of addresses only.
 *
 *   cell 0   generation | flags | egress: table of addresses | ingress: table of addresses
 *   cell 1   table of names | 0 | 0 | 0
 *   address  first address, upper half | lower half | node | 0       sorted; each holds until the next; the first is ::
 *   node     table of spans | parent node or 0 | 0 | 0
 *   span     first key, last key | rule, bits | action | 0           sorted and apart; key: enum protocol_class << 16 | port
 *   name     id of the name | node for egress, node for ingress | 0 | 0    sorted by id
 *
 * A table is its first cell in the lower and its number of cells in the upper 32 bits of a word; so are the other pairs: the first
 * named in the lower half. Rules are counted from 0, and the one with the lowest number decides. bits is the length of the
 * rule's prefix, 0..128, IPv4's as 96 + its own; 0 for a rule with a name or any address. Of a node's own spans and those of its
 * parents the one with the lowest rule counts. A node of 0 is none.
 */
struct cell {
	__u64 word[4];
};

enum policy_flag {
	POLICY_ALLOW = 1, /* what no rule decides is allowed to go out (allow-internet); else denied */
	POLICY_NAMES = 2, /* there are rules with names: DNS goes through the gateway's name server only */
};

/* What an address that needs to be named belongs to: word 3 of an address cell of "protected" (word 2 is bits). */
enum protected_class {
	PROTECTED_NO = 0,
	PROTECTED_PHONE = 1,	  /* the pools of the phones */
	PROTECTED_HOST = 2,	  /* an address of the host */
	PROTECTED_NETWORK = 3,	  /* a network that the host is in */
	PROTECTED_LINK_LOCAL = 4, /* 169.254.0.0/16, fe80::/10 */
	PROTECTED_METADATA = 5,	  /* 169.254.169.254, fd00:ec2::254 and their like */
	PROTECTED_RESERVED = 6,	  /* loopback, "this network", documentation, reserved */
	PROTECTED_PRIVATE = 7,	  /* RFC 1918, RFC 6598 and RFC 4193 addresses that the host has a route to, or none */
};

/* One live flow: an element of the phone's inner hash in "flows", an array of maps by slot. */
struct flow_key {
	__u8 peer[16];
	__u16 peer_port;  /* 0 for ICMP; upper half of the identification for a fragment */
	__u16 phone_port; /* the identifier for ICMP echo; lower half of the identification for a fragment */
	__u8 protocol;	  /* number in the IP header */
	__u8 fragment;	  /* 1 + direction of the packet: not a flow but the fragments of a packet that passed; else 0 */
	__u16 pad;
};

enum flow_state {
	FLOW_NEW = 0,	      /* packets of one side only */
	FLOW_ESTABLISHED = 1, /* of both sides */
	FLOW_CLOSING = 2,     /* TCP: a FIN was seen */
	FLOW_CLOSED = 3,      /* TCP: FINs of both sides, or an RST */
};

struct flow {
	__u64 started;
	__u64 expires;
	__u64 generation; /* of the policy that allowed it */
	__u64 name;	  /* id of the name that its rule has, or 0 */
	__u32 rule;	  /* that allowed it; RULE_DEFAULT, RULE_GATEWAY, RULE_FORWARD */
	__u8 direction;	  /* enum direction: who began it */
	__u8 state;	  /* enum flow_state */
	__u8 fins;	  /* 1 << direction of each FIN that was seen */
	__u8 sampled;	  /* it is in the flow log */
	__u64 packets[2]; /* by direction of the packet; near enough, where several processors count at once */
	__u64 bytes[2];
};

#define RULE_DEFAULT 0xffffffffu /* no rule: the policy's default */
#define RULE_GATEWAY 0xfffffffeu /* no rule: DNS and echo at the gateway */
#define RULE_FORWARD 0xfffffffdu /* no rule: a port forward of the host */
#define RULE_NONE 0xfffffffcu	 /* dropped before any rule was asked */

/* Ports of a phone that a forward of the host opens: hash "forwards". */
struct forward {
	__u32 slot;
	__u16 port;
	__u8 protocol;
	__u8 pad;
};

/* By what names an address is open for a phone: hash "names". Written by the name server before it answers. */
struct name_key {
	__u32 slot;
	__u32 pad;
	__u8 address[16];
};
struct name_lease {
	__u64 id; /* first 8 bytes, little-endian, of SHA-256 of the pattern in lower case; 0: free */
	__u64 until;
};
struct name_value {
	struct name_lease lease[MAX_NAMES];
};

/* Which phone asks the name server: hash "clients", by the phone's address. */
struct client_key {
	__u8 address[16];
};
struct client {
	__u32 slot;
	__u32 policy;
	__u32 flags;
	__u32 ifindex;
};

/* Totals of a phone: per-CPU array "counters", by slot. By direction of the packet: EGRESS leaves the phone. */
struct counters {
	__u64 packets[2];
	__u64 bytes[2];
	__u64 dropped[MAX_REASONS]; /* packets, by reason */
	__u64 unlisted;		    /* dropped packets that found no room in "denials" */
	__u64 lost;		    /* events that found no room */
};

/* Dropped packets that are alike: an element of the phone's inner hash in "denials", an array of maps by slot. */
struct denial_key {
	__u8 peer[16];
	__u32 rule;
	__u16 port; /* the peer's when the phone sent it, else the phone's */
	__u8 protocol;
	__u8 direction; /* of the packet */
	__u8 reason;
	__u8 class;	/* enum protected_class */
	__u16 pad;
};
struct denial {
	__u64 count;
	__u64 bytes;
	__u64 first;
	__u64 last;
};

/* What the ring buffer "events" carries. */
enum event_kind {
	EVENT_DENIAL = 1, /* a new element in the phone's denials */
	EVENT_OPENED = 2, /* a sampled flow began */
	EVENT_CLOSED = 3, /* a sampled flow ended: closed, denied by a new policy, or its place was needed */
};
struct event {
	__u32 kind;
	__u32 slot;
	__u64 time;
	struct flow_key key;	  /* of a flow's */
	struct flow flow;
	struct denial_key denial; /* of a denial's; what the others hold then is zero */
};

/* What the host has set: array "settings" of one element, which the programs read for each packet that begins or lengthens a flow. */
struct settings {
	__u32 sample;	/* one of so many flows is logged; 0: none */
	__u32 pad;
	__u64 tcp_new;	/* how long a flow lives without a packet, in ns: equal to what the NAT's conntrack is told */
	__u64 tcp_established;
	__u64 tcp_closing;
	__u64 tcp_closed;
	__u64 udp_new;
	__u64 udp_established;
	__u64 icmp;
	__u64 fragment;
};

/*
 * What "judge" answers, in the cb of its context; the direction of the packet (enum direction) is asked in its mark. It answers what
 * from_phone or to_phone of the link in its ifindex would do now, and changes nothing: no flow begins, nothing is counted. It does not
 * foresee REASON_FLOW_LIMIT.
 */
struct verdict {
	__u8 reason;	   /* enum reason; REASON_NONE: it passes */
	__u8 class;	   /* enum protected_class of the peer, where a policy was asked */
	__u8 bits;	   /* length of the peer's protected prefix, IPv4's as 96 + its own */
	__u8 begins;	   /* 1: it begins a flow, or would if it passed; 0: it belongs to one, or needs none */
	__u32 rule;	   /* that decides; or RULE_... */
	__u32 name[2];	   /* id of the name that the rule has, or 0: lower half, upper half */
	__u32 generation; /* lower half of that of the policy that was asked, or 0 */
};
