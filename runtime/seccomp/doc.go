// Package seccomp holds the system-call filters of the two containers of a phone, as the OCI spec words them.
//
// The guest's filter allows by default, since Android calls nearly everything, and refuses what reaches beyond the phone: other
// phones' BPF objects, kernel modules and images, file handles, the shutdown of a file system, kernel keyrings, new user
// namespaces. The display's filter allows only what a Go program with a software encoder calls.
//
// Arguments that the kernel takes as 32-bit numbers are compared in their low 32 bits only: a caller may put anything above them.
// The package is data and pure functions.
package seccomp
