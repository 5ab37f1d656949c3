// Package nettest attacks the phones' networks as a phone's own root would, and uses them as an ordinary phone does.
//
// A host is a network namespace with an uplink to a router, behind which a small internet has a server; netpolicy.Engine, the real one,
// makes phones' networks on it, and the real name server answers there. The attacker is a process in a container that runc makes of
// ocispec's own spec of a guest: in the phone's network namespace and in PID and mount namespaces of its own, behind the guest's seccomp
// filter, with every capability that any profile grants. It sends frames that the tests make byte by byte, and runs programs.
//
// What is told is what was seen on the other side: everything that the host's end of the attacker's link lets through is copied to a link
// that the tests read, and the neighbour's and the server's links are read too. A frame that must not pass has a mark in it, and one that
// may is sent last: when that has arrived, all before it have been dealt with, so no test waits for nothing to happen.
//
// It is a package of scripts because it needs both netpolicy and runtime, which do not know each other. It holds only tests.
package nettest
