// Package rules holds the rules of this repository as tests, so that nobody has to remember them: what may import what, that
// every package says what it is, how long a file may be, which binaries are pure Go, and what may stand at the top level.
//
// The tests read the tree and the output of the go command; they change nothing.
package rules
