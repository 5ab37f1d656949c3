// Package shape bounds how fast phones send and receive.
//
//	download   to the phone     tbf at the egress of the host's end of the phone's link
//	upload     from the phone   ingress of the host's end -> mirred -> tbf at the egress of an ifb of the phone's own -> ingress again
//
// A queue with a token bucket (tbf) delays packets, and drops only when the queue is full; a policer would drop whatever exceeds the
// rate, from which TCP recovers badly. What the phone sends has no queue on the host, since the host receives it: a filter at the ingress
// of the link diverts it through an intermediate functional block, which queues it and then lets it go on where it was. The uplink and
// its queues are never touched.
//
// The filter comes after the programs of netpolicy/datapath, which have had the packet before: only what they let pass is shaped. A
// packet that comes back from the ifb passes neither them nor the filter again (skb->tc_skip_classify). The programs could send packets
// to the ifb themselves by bpf_redirect, but an ifb drops those before Linux 6.4, where bpf_redirect does not set skb->redirected; and
// programs of others that are attached behind would not see the packets. mirred does the same on all kernels.
//
// Everything is the kernel's: it stays when this process ends. Set makes and removes things in such an order that whoever is killed in it
// leaves a phone with the former limits, with the new ones, or with one of each, and never without its network; the next Set finishes.
// What Set made is known by its names and numbers: the ifb by its name and kind, the qdiscs by their handle, the filter by its priority.
// A qdisc of somebody else is left where it is, and refuses the limit that would need its place.
//
// Functions may be called by several goroutines; calls for one phone must not overlap. They act in the network namespace of the calling
// thread, and need CAP_NET_ADMIN and the kernel's sch_tbf, and for uploads ifb, sch_ingress, cls_u32 and act_mirred.
package shape
