// Package control is the protocol between the host and the guest program of a machine of the VM lab, over the
// virtio-serial port named Port. Both sides are here; what the requests do in the guest is package guest.
//
// # Handshake
//
// A port carries bytes without a beginning: a guest reboots, a snapshot is resumed under another host process, a host goes
// away in the middle of a frame. So a session begins with lines that carry a nonce of the host:
//
//	host   phonehost-control 2 hello NONCE
//	guest  phonehost-control 2 ready NONCE {"boot_id": ..., ...}
//	host   phonehost-control 2 start NONCE
//	guest  phonehost-control 2 started NONCE
//
// Each side drops the lines that it does not wait for, and begins its own with a line's end, which ends whatever went before.
// Any of them may be lost, mangled or doubled: the host repeats itself every second, its hello until it hears ready, then
// hello and start until it hears started, for the guest may have begun anew in between. The guest answers each one.
//
// # Records
//
// After started both sides speak yamux, the host as its client; only the host opens streams. yamux's bytes go in records:
//
//	0 1 byte | length 3 bytes, big endian, 1 to maxRecord | payload
//
// No line begins with a byte 0, so the first record ends the lines, however many were repeated. The host says no line after
// its first record. The guest takes lines until then, and sends its own first record after that one.
//
// Records are there for two reasons. A host may come while the guest has not seen the one before go, perhaps in the middle of
// a frame of yamux's, whose cut header may announce 4 GiB. But of a record at most maxRecord bytes are missing; what comes
// after them is no record and ends the old session. So repeated lines come behind as many line ends, and the next ones are
// answered. And a frame that fits into a record, as all frames of a guest do, is taken when all of it is there: a guest that
// stands still in the middle of one does not hold up a reader beyond its deadline, as yamux would.
//
// A guest whose session ends closes the port and opens it anew, which QEMU tells the host. Nothing else tells a host in a
// session that the guest program began anew.
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
