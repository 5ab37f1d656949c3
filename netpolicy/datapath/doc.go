// Package datapath is the part of the phones' networks that the kernel runs: BPF programs on the host's end of each phone's link, the maps
// that they share with Go, and the pins by which both outlive the process.
//
// The programs are in bpf/; bpf/layout.h is the contract, bpf/datapath.c says in which order a packet is judged. The compiled object and
// the Go types of the layout are committed; `make gen` makes them anew.
package datapath

//go:generate go tool bpf2go -target bpfel -type reason -type direction -type protocol_class -type phone_flag -type cell -type policy_flag -type protected_class -type flow_key -type flow_state -type flow -type forward -type name_key -type name_lease -type name_value -type client_key -type client -type denial_key -type denial -type event_kind -type event -type verdict -cflags "-O2 -g -Wall -Wextra -Werror -mcpu=v3 -Ibpf/include" bpf bpf/datapath.c
