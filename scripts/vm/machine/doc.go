// Package machine owns QEMU: it starts a machine from the lab's kernel, initrd and root, speaks to the program in it
// (package control), saves and resumes it, and leaves nothing behind. It knows no tests and builds no assets.
//
// A machine is one QEMU process, a child that dies with us. It has a directory with its sockets, its serial log and its
// temporary disk; one of the host's Slots; and a control session per boot. At most Slots machines run on a host at once; who
// comes later waits.
//
// No machine reaches anything outside: its network is QEMU's user mode network with restrict=on, which answers DHCP and
// drops the rest. The ways in are the control port, and the ports that Forward opened on the host's loopback.
//
// # Goroutines
//
// A Machine has three of its own, which Close waits for: one that waits for the process, locked to the thread that the
// process was started by (the signal that ends QEMU comes when that thread ends); one that reads QMP; one that keeps the
// control session. Its methods may be called by any number of goroutines.
package machine
