// Package netbench measures what the programs of netpolicy/datapath cost a packet, beside no policy and beside nftables.
//
//	phone's namespace ---- veth ---- host's [policy] ---- veth ---- server's namespace
//
// One thread on one processor holds the sockets at both ends. What it writes at one end passes the whole path in its own system call
// (a veth hands packets to the same processor, in the softirq that follows), so it can be read at the other at once: no scheduler is in
// the loop. Two processes on shared processors vary six-fold; this does by some per cent. Policies take turns in one run, in rounds, each
// with new sockets; of a round counts the fastest batch, and of the rounds the median.
package netbench
