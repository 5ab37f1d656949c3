// Package pinned is what the engines of the kernel's policies have in common: maps that outlive the process by pins, tables in arrays of maps
// that are replaced while programs use them, and the kernel's clock. Nothing in it knows what the maps hold.
//
// Its functions have no state, but for Locks. They may be called by several goroutines; who changes one slot of an array of maps does so alone.
// Errors are the kernel's, with the step and the map; Classed gives them a class.
package pinned
