// Package soak proves that phones survive anything: it kills the agent at every named boundary of every operation (package crashpoint)
// and at random times, kills containerd, shims, displays and guests in the middle of operations, and has disks fill and tools fail.
// Afterwards each phone must be what was asked for, or the operation must say truthfully why not; nothing may have been done twice; and
// an inventory of the host must show nothing that belongs to nobody.
//
// It holds only tests. docs/soak.md says how to run them and how to repeat a failure.
package soak
