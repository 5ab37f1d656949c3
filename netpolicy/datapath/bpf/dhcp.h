/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * DHCP (RFC 2131, RFC 2132) for phones that configure themselves, those with PHONE_DHCP. A request becomes its own answer, from what struct
 * phone says, and goes back over the link that it came from. So there is no server, nothing to remember, and nothing that a phone could
 * make it say but its own configuration.
 *
 *   DISCOVER                                OFFER
 *   REQUEST of the phone's own address      ACK; of another one: NAK
 *   INFORM                                  ACK without an address
 *   what is meant for another server, DECLINE, RELEASE and what servers say: dropped, as all else that goes to the host
 *
 * to_phone lets through what from_phone has answered, and knows it by this: it has come in where it goes out, and is from the gateway, which
 * from_phone lets nobody say.
 */
#pragma once

#include "packet.h"
#include "parse.h"

#define DHCP_COOKIE bpf_htonl(0x63825363)
#define DHCP_BROADCAST bpf_htons(0x8000) /* flag: the client cannot be reached at its address yet */
#define DHCP_LEASE 86400		 /* s */

#define MAX_DHCP_OPTIONS 64 /* that are looked at, padding included */

enum dhcp_message {
	DHCP_DISCOVER = 1,
	DHCP_OFFER = 2,
	DHCP_REQUEST = 3,
	DHCP_ACK = 5,
	DHCP_NAK = 6,
	DHCP_INFORM = 8,
};

enum dhcp_code {
	DHCP_CODE_PAD = 0,
	DHCP_CODE_MASK = 1,
	DHCP_CODE_ROUTER = 3,
	DHCP_CODE_NAME_SERVER = 6,
	DHCP_CODE_REQUESTED = 50, /* address */
	DHCP_CODE_LEASE = 51,
	DHCP_CODE_MESSAGE = 53,
	DHCP_CODE_SERVER = 54,
	DHCP_CODE_END = 255,
};

/* How a message begins. Behind it are 192 bytes of names, which nobody needs, the cookie and the options. */
struct dhcp {
	__u8 operation; /* 1: a client's, 2: a server's */
	__u8 hardware;
	__u8 hardware_size;
	__u8 hops;
	__be32 id;
	__be16 seconds;
	__be16 flags;
	__be32 client; /* address that the client has already */
	__be32 yours;  /* that it gets */
	__be32 server;
	__be32 relay;
	__u8 mac[16];
};

#define DHCP_AT (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr))
#define DHCP_NAMES 192
#define DHCP_COOKIE_AT (DHCP_AT + sizeof(struct dhcp) + DHCP_NAMES)
#define DHCP_OPTIONS_AT (DHCP_COOKIE_AT + sizeof(__be32))

/* What the options of a request say. */
struct dhcp_request {
	struct __sk_buff *skb;
	__u32 at; /* offset of the next */
	__u32 end;
	__be32 requested; /* or 0 */
	__be32 server;	  /* that it is for, or 0 */
	__u8 message;	  /* enum dhcp_message, or 0 */
	__u8 whole;	  /* the last option was reached, and none was wrong */
};

/* Keeps an option of which a request may have one. Returns false if it is wrong. */
inline bool keep_option(struct dhcp_request *r, __u8 code, __u8 size)
{
	__u32 at = r->at + 2;

	switch (code) {
	case DHCP_CODE_MESSAGE:
		return size == 1 && !r->message && !bpf_skb_load_bytes(r->skb, at, &r->message, sizeof(r->message));
	case DHCP_CODE_REQUESTED:
		return size == 4 && !r->requested && !bpf_skb_load_bytes(r->skb, at, &r->requested, sizeof(r->requested));
	case DHCP_CODE_SERVER:
		return size == 4 && !r->server && !bpf_skb_load_bytes(r->skb, at, &r->server, sizeof(r->server));
	default:
		return true;
	}
}

static long dhcp_option_step(__u32 step __attribute__((unused)), struct dhcp_request *r)
{
	__u8 code = 0, size = 0;

	if (r->at >= r->end || bpf_skb_load_bytes(r->skb, r->at, &code, sizeof(code)))
		return 1;
	if (code == DHCP_CODE_PAD) {
		r->at++;
		return 0;
	}
	if (code == DHCP_CODE_END) {
		r->whole = 1;
		return 1;
	}
	if (bpf_skb_load_bytes(r->skb, r->at + 1, &size, sizeof(size)) || r->at + 2 + size > r->end)
		return 1;
	if (!keep_option(r, code, size))
		return 1;
	r->at += 2 + size;
	return 0;
}

/* Reads a request up to the end of its datagram. Returns a reason. */
inline int read_dhcp(struct __sk_buff *skb, const struct phone *phone, struct dhcp *d, struct dhcp_request *r)
{
	struct udphdr udp;
	__be32 cookie;

	if (bpf_skb_load_bytes(skb, DHCP_AT - sizeof(udp), &udp, sizeof(udp)))
		return REASON_MALFORMED;
	r->skb = skb;
	r->at = DHCP_OPTIONS_AT;
	r->end = DHCP_AT - sizeof(udp) + bpf_ntohs(udp.len);
	if (r->end < r->at || bpf_skb_load_bytes(skb, DHCP_AT, d, sizeof(*d)) || bpf_skb_load_bytes(skb, DHCP_COOKIE_AT, &cookie, sizeof(cookie)))
		return REASON_MALFORMED;
	if (d->operation != 1 || d->hardware != 1 || d->hardware_size != ETH_ALEN || d->relay || cookie != DHCP_COOKIE)
		return REASON_MALFORMED;
	if (!same_mac(d->mac, phone->mac))
		return REASON_SPOOFED_MAC;
	bpf_loop(MAX_DHCP_OPTIONS, dhcp_option_step, r, 0);
	return r->whole && r->message ? REASON_NONE : REASON_MALFORMED;
}

/* What a request is answered with, into p->answer. Returns a reason. */
inline int choose_answer(struct packet *p, const struct phone *phone, const struct dhcp *d, const struct dhcp_request *r)
{
	__be32 own = ip4_of(phone->ip4);

	p->asked = r->message;
	switch (r->message) {
	case DHCP_DISCOVER:
		p->answer = DHCP_OFFER;
		return REASON_NONE;
	case DHCP_INFORM:
		p->answer = DHCP_ACK;
		return d->client == own ? REASON_NONE : REASON_MALFORMED;
	case DHCP_REQUEST:
		if (r->server && r->server != ip4_of(phone->gateway4))
			break;
		if (!r->requested && !d->client)
			return REASON_MALFORMED;
		p->answer = (r->requested && r->requested != own) || (d->client && d->client != own) ? DHCP_NAK : DHCP_ACK;
		return REASON_NONE;
	}
	p->bits = 128;
	p->class = PROTECTED_HOST;
	return REASON_PROTECTED;
}

function int judge_dhcp(struct __sk_buff *skb, struct packet *p)
{
	struct dhcp_request request = {};
	struct phone *phone;
	struct dhcp d = {};
	__u8 zero;
	int reason;

	if (!p)
		return REASON_NO_PHONE;
	phone = get_phone(p);
	if (!phone)
		return REASON_NO_PHONE;
	if (p->direction == EGRESS) {
		/*
		 * Zero, which the verifier must not know: before Linux 6.7 it looks at one step of bpf_loop, and takes for dead what needs
		 * what several steps have found.
		 */
		zero = p->answer;
		request.requested = zero;
		request.server = zero;
		request.message = zero;
		request.whole = zero;
		reason = read_dhcp(skb, phone, &d, &request);
		reason = reason ?: choose_answer(p, phone, &d, &request);
		if (reason)
			return reason;
	}
	p->rule = RULE_GATEWAY;
	return REASON_NONE;
}

/* All of an answer but its options. */
struct dhcp_answer {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	struct dhcp dhcp;
} __attribute__((packed, aligned(8)));

struct dhcp_option4 {
	__u8 code;
	__u8 size;
	__be32 value;
} __attribute__((packed));

/* The cookie and the options of an answer: as long as BOOTP has them at least (RFC 1542, section 2.1). */
struct dhcp_options {
	__be32 cookie;
	__u8 message_code;
	__u8 message_size;
	__u8 message;
	struct dhcp_option4 server;
	struct dhcp_option4 mask;
	struct dhcp_option4 router;
	struct dhcp_option4 name_server;
	struct dhcp_option4 lease;
	__u8 end;
	__u8 pad[26];
} __attribute__((packed, aligned(8)));

#define DHCP_ANSWER_SIZE (DHCP_COOKIE_AT + sizeof(struct dhcp_options))

inline struct dhcp_option4 option4(__u8 code, __be32 value)
{
	return (struct dhcp_option4){ .code = code, .size = sizeof(value), .value = value };
}

inline void fill_options(const struct packet *p, const struct phone *phone, struct dhcp_options *o)
{
	__be32 gateway = ip4_of(phone->gateway4);

	o->cookie = DHCP_COOKIE;
	o->message_code = DHCP_CODE_MESSAGE;
	o->message_size = sizeof(o->message);
	o->message = p->answer;
	o->server = option4(DHCP_CODE_SERVER, gateway);
	if (p->answer == DHCP_NAK) {
		o->mask.code = DHCP_CODE_END;
		return;
	}
	o->mask = option4(DHCP_CODE_MASK, bpf_htonl(~(0xffffffffull >> (phone->prefix4 & 63))));
	o->router = option4(DHCP_CODE_ROUTER, gateway);
	o->name_server = option4(DHCP_CODE_NAME_SERVER, gateway);
	if (p->asked == DHCP_INFORM) {
		o->lease.code = DHCP_CODE_END;
		return;
	}
	o->lease = option4(DHCP_CODE_LEASE, bpf_htonl(DHCP_LEASE));
	o->end = DHCP_CODE_END;
}

/* Of a request the client's own words stay: id, flags, MAC, and in an ACK the address that it has. */
inline void fill_message(const struct packet *p, const struct phone *phone, struct dhcp_answer *a)
{
	a->dhcp.operation = 2;
	a->dhcp.hops = 0;
	a->dhcp.seconds = 0;
	a->dhcp.yours = p->answer == DHCP_NAK || p->asked == DHCP_INFORM ? 0 : ip4_of(phone->ip4);
	a->dhcp.server = p->answer == DHCP_NAK ? 0 : ip4_of(phone->gateway4);
	if (p->answer != DHCP_ACK)
		a->dhcp.client = 0;
}

inline __u16 checksum4(const void *header)
{
	__u64 sum = bpf_csum_diff(NULL, 0, (void *)header, sizeof(struct iphdr), 0);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The headers. UDP goes without a checksum (RFC 768): the link is memory. */
inline void fill_headers(const struct packet *p, const struct phone *phone, struct dhcp_answer *a)
{
	bool broadcast = p->answer == DHCP_NAK || (a->dhcp.flags & DHCP_BROADCAST && !a->dhcp.client);

	if (broadcast)
		__builtin_memset(a->eth.h_dest, 0xff, ETH_ALEN);
	else
		__builtin_memcpy(a->eth.h_dest, phone->mac, ETH_ALEN);
	__builtin_memcpy(a->eth.h_source, phone->gateway_mac, ETH_ALEN);
	a->eth.h_proto = bpf_htons(ETH_P_IP);
	a->ip.version = 4;
	a->ip.ihl = sizeof(a->ip) / 4;
	a->ip.tot_len = bpf_htons(DHCP_ANSWER_SIZE - ETH_HLEN);
	a->ip.ttl = 64;
	a->ip.protocol = IPPROTO_UDP;
	a->ip.saddr = ip4_of(phone->gateway4);
	a->ip.daddr = broadcast ? 0xffffffff : ip4_of(phone->ip4);
	a->ip.check = checksum4((void *)a + ETH_HLEN);
	a->udp.source = bpf_htons(DHCP_SERVER);
	a->udp.dest = bpf_htons(DHCP_CLIENT);
	a->udp.len = bpf_htons(DHCP_ANSWER_SIZE - ETH_HLEN - sizeof(struct iphdr));
}

/* Makes a request that passed its answer, which goes back over the link. Returns what the program returns. */
function int answer_dhcp(struct __sk_buff *skb, const struct packet *p)
{
	struct dhcp_options options = {};
	struct dhcp_answer answer = {};
	struct phone *phone;

	if (!p)
		return TC_ACT_SHOT;
	phone = get_phone(p);
	if (!phone || bpf_skb_change_tail(skb, DHCP_ANSWER_SIZE, 0) || bpf_skb_load_bytes(skb, DHCP_AT, &answer.dhcp, sizeof(answer.dhcp)))
		return TC_ACT_SHOT;
	/* The names are empty, and three times as long as the options. */
	for (int i = 0; i < 3; i++)
		if (bpf_skb_store_bytes(skb, DHCP_AT + sizeof(struct dhcp) + i * sizeof(options), &options, sizeof(options), 0))
			return TC_ACT_SHOT;
	fill_message(p, phone, &answer);
	fill_headers(p, phone, &answer);
	fill_options(p, phone, &options);
	if (bpf_skb_store_bytes(skb, 0, &answer, sizeof(answer), 0) || bpf_skb_store_bytes(skb, DHCP_COOKIE_AT, &options, sizeof(options), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}
