// Package netpolicy is the engine of the phones' networks: the namespace that each phone lives in, and what the kernel lets in and
// out of it.
//
// Package netns below it makes and removes the namespaces. Until a phone is given a link its namespace has loopback only, so that
// nothing leaves it and nothing enters.
package netpolicy
