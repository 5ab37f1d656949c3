// Package control is the protocol between the host and the guest program of a machine of the VM lab, over the
// virtio-serial port named Port. Both sides are here; what the requests do in the guest is package guest.
//
// # Handshake
//
// A port carries bytes without a beginning: a guest reboots, a snapshot is resumed under another host process, a host goes
// away in the middle of a frame. So a session begins with a line of the host that no yamux frame can begin with, and that
// carries a nonce:
//
//	host   phonehost-control 1 hello NONCE
//	guest  phonehost-control 1 ready NONCE {"boot_id": ..., ...}
//	host   phonehost-control 1 start NONCE
//	guest  phonehost-control 1 started NONCE
//
// Each side drops everything before the line it waits for. A host that hears nothing repeats its hello, and the guest
// answers each one; all of them come before the start. After the last line both sides speak yamux, the host as its client;
// only the host opens streams. A guest whose session ends closes the port and opens it anew, which QEMU tells the host.
//
// # Streams
//
// A stream begins with one line of JSON, a Request. Then the host sends frames, and the guest frames that end with one of
// kind frameResult; after a successful dial the stream carries bare bytes instead. A frame is
//
//	kind 1 byte | length 4 bytes, big endian, at most maxFrame | payload
//
// A stream that the host closes before the result is a request given up: the guest ends what it started for it.
//
// # Goroutines
//
// A Client's methods may be called by any number of goroutines. The guest serves each stream in a goroutine of Serve, which
// returns when all have ended. Nothing is written to a caller's writer after Exec or Get has returned.
package control

// Port is the name of the virtio-serial port.
const Port = "phonehost.control"
