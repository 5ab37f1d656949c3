// Package datapath is what decides in the kernel: BPF programs on the host's end of each phone's link, the maps that they read and
// fill, and the pins by which both stay when the process ends.
//
// There are three programs, in bpf/ (bpf/datapath.c says in which order a packet is judged): from_phone on what a phone sends, to_phone on what is sent to it, and judge, which only test runs call. They are
// attached by TCX links (Linux 6.6) or, on older kernels, as direct-action filters of a clsact qdisc. bpf/layout.h is the contract between
// them and Go. What they do not know they drop: a link without a phone, a phone without a policy. The compiled object and the Go types of
// the layout are committed; `make gen` makes them anew.
//
// # What is pinned where
//
//	Config.Dir                   on a BPF file system; flock(2) makes its owner one process
//	  v1                         LAYOUT of layout.h
//	    phones, policies...      the maps, by their names in C
//	    reported                 hash by slot: how many unlisted drops DrainDenials has reported
//	    draining/SLOT            a table of denials that was taken out of "denials" and is being reported
//	    programs/VERSION         from_phone, to_phone, judge; VERSION is a digest of the object file that they come from
//	    links/ID_from, ID_to     TCX links of the phone called ID
//
// Names of pins have no dots: the BPF file system keeps them for itself. clsact filters live with their device and carry the phone's id in
// their name ("phonehost:ID"); nothing of them is pinned.
//
// # What a crash leaves
//
// Everything that passes packets is one write to one map, made last: the element of "phones" for a phone, that of "policies" for a policy, one
// link for a program. Before it all that it needs is there, and what was there before holds until then. So a process that is killed leaves
// either the old or the new, never a part:
//
//	Open          some maps or programs pinned, nothing attached; the next Open makes the rest
//	Attach        a link that was not pinned yet goes with the process, before the device is up; a program replaced on one side only, which
//	              the next Attach replaces on the other: both work on the same maps
//	SetPhone      tables of a slot that no link has yet, or the phone complete
//	RemovePhone   a phone that is cut, without a part of what it had; the next call, or SetPhone, finishes
//	LoadPolicy    a map that nobody refers to, which goes with the process; or the new policy in force
//	DrainDenials  denials that were taken and not reported stay pinned, and the next call reports them
//	Detach        one of two programs; the device is down
//
// A program of another version (of an older or newer agent) is replaced by Attach, between two packets. Pins of another LAYOUT stay in force
// until Attach moves their links over, one phone at a time; the directory goes with the last of them.
//
// # Locking
//
// A Datapath may be used by several goroutines; calls for one slot follow one another, and so do Attach and Detach, which the kernel has in
// single file anyway. Where something is replaced that programs may be using the kernel waits until none does (a grace period of RCU, some ms to
// tens of ms): twice in the first Attach of a TCX link, once in LoadPolicy, SetProtected, RemovePhone, a DrainDenials that finds any, and in the
// first SetPhone unless its slot was reserved. Leases is for another process, which needs no privilege but the pins. No goroutine outlives a call.
package datapath

//go:generate go tool bpf2go -target bpfel -type reason -type direction -type protocol_class -type phone_flag -type cell -type policy_flag -type protected_class -type flow_key -type flow_state -type flow -type forward -type name_key -type name_lease -type name_value -type client_key -type client -type denial_key -type denial -type event_kind -type event -type verdict -cflags "-O2 -g -Wall -Wextra -Werror -mcpu=v3 -Ibpf/include" bpf bpf/datapath.c
