// Package wire is the Wayland wire protocol, for both ends: the shape of messages, their marshalling, and a connection
// that carries them and their file descriptors over a Unix stream socket.
//
// The package knows nothing of particular interfaces: encoder/wayland/protocol has the tables, generated from the XML. It
// keeps no objects; which id is of which interface is the caller's. Everything that arrives is checked against the
// signature it should have, and every descriptor that arrives is either handed to the caller or closed.
//
// A Conn has one reader at a time (Next, Decode), and any number of senders (Send, Flush). Sending never blocks: what the
// socket does not take is queued up to a bound, beyond which the connection is broken.
package wire

import (
	"fmt"
	"math"

	"github.com/containerd/errdefs"
)

const (
	// HeaderSize is the length of a message's header in bytes.
	HeaderSize = 8
	// MaxMessage is the longest message in bytes, header included: what libwayland's buffers hold.
	MaxMessage = 4096
	// MaxFDsPerSend is how many descriptors one sendmsg may carry: libwayland's own limit.
	MaxFDsPerSend = 28
	// MaxClientID is the highest object id that a client may choose; the ids above are the server's.
	MaxClientID = 0xfeffffff
	// MinServerID is the lowest object id that a server may choose.
	MinServerID = 0xff000000
)

// ErrMalformed is the class of messages that do not have the form they must have.
var ErrMalformed = fmt.Errorf("malformed wayland message: %w", errdefs.ErrInvalidArgument)

// Kind is the type of one argument on the wire.
type Kind uint8

// The argument types of the protocol.
const (
	KindInt    Kind = iota + 1 // signed 32 bits
	KindUint                   // unsigned 32 bits
	KindFixed                  // signed 24.8 fixed point
	KindString                 // length, bytes, NUL, padding
	KindObject                 // id of an object
	KindNewID                  // id of an object that the message makes
	KindArray                  // length, bytes, padding
	KindFD                     // a descriptor, beside the byte stream
)

// String returns the name that the XML uses.
func (k Kind) String() string {
	names := [...]string{"invalid", "int", "uint", "fixed", "string", "object", "new_id", "array", "fd"}
	if int(k) >= len(names) {
		return "invalid"
	}
	return names[k]
}

// Param is one argument in a signature.
type Param struct {
	// Name is the argument's name in the XML.
	Name string
	// Kind is its type.
	Kind Kind
	// Interface is what an object or new_id must be; empty where any interface is allowed.
	Interface string
	// Nullable tells that a string or object may be null.
	Nullable bool
}

// Message is one request or event of an interface.
type Message struct {
	// Interface is the name of the interface that it belongs to.
	Interface string
	// Name is its name in the XML.
	Name string
	// Opcode is its number on the wire.
	Opcode uint16
	// Since is the version of the interface that introduced it, at least 1.
	Since uint32
	// Destructor tells that it ends the object it is sent to.
	Destructor bool
	// Params is its signature; a new_id without an interface is three entries (string, uint, new_id), as on the wire.
	Params []Param
}

// String returns interface.name.
func (m *Message) String() string { return m.Interface + "." + m.Name }

// Interface is one interface of the protocol.
type Interface struct {
	// Name is its name on the wire.
	Name string
	// Version is the highest version that the table describes.
	Version uint32
	// Requests are what clients send, by opcode.
	Requests []Message
	// Events are what servers send, by opcode.
	Events []Message
}

// Request returns a request by opcode, which must be one of the interface's.
func (i *Interface) Request(op int) *Message { return &i.Requests[op] }

// Event returns an event by opcode, which must be one of the interface's.
func (i *Interface) Event(op int) *Message { return &i.Events[op] }

// Fixed is a signed 24.8 fixed point number.
type Fixed int32

// ToFixed returns the nearest Fixed of f, clamped to what a Fixed can hold; not a number becomes 0.
func ToFixed(f float64) Fixed {
	v := math.Round(f * 256)
	switch {
	case v != v:
		return 0
	case v > math.MaxInt32:
		return math.MaxInt32
	case v < math.MinInt32:
		return math.MinInt32
	}
	return Fixed(v)
}

// Float returns the value of f.
func (f Fixed) Float() float64 { return float64(f) / 256 }

// Value is one argument of one message.
type Value struct {
	kind Kind
	n    uint32
	null bool
	fd   int
	s    string
	b    []byte
}

// Int is a signed argument.
func Int(v int32) Value { return Value{kind: KindInt, n: uint32(v)} }

// Uint is an unsigned argument.
func Uint(v uint32) Value { return Value{kind: KindUint, n: v} }

// Fix is a fixed point argument.
func Fix(v Fixed) Value { return Value{kind: KindFixed, n: uint32(v)} }

// String is a string argument; it must not contain a NUL byte.
func String(s string) Value { return Value{kind: KindString, s: s} }

// NullString is the null string.
func NullString() Value { return Value{kind: KindString, null: true} }

// Object is an object argument; 0 is null.
func Object(id uint32) Value { return Value{kind: KindObject, n: id} }

// NewID is the id of an object that the message makes.
func NewID(id uint32) Value { return Value{kind: KindNewID, n: id} }

// Array is an array of bytes, whose elements are in the machine's byte order.
func Array(b []byte) Value { return Value{kind: KindArray, b: b} }

// FD is a descriptor; the message takes a duplicate when it is sent.
func FD(fd int) Value { return Value{kind: KindFD, fd: fd} }

// Kind returns the type of the argument.
func (v Value) Kind() Kind { return v.kind }

// Int returns a signed argument.
func (v Value) Int() int32 { return int32(v.n) }

// Uint returns an unsigned argument.
func (v Value) Uint() uint32 { return v.n }

// Fixed returns a fixed point argument.
func (v Value) Fixed() Fixed { return Fixed(int32(v.n)) }

// ID returns an object or new_id argument; 0 is null.
func (v Value) ID() uint32 { return v.n }

// Text returns a string argument; the null string is empty.
func (v Value) Text() string { return v.s }

// Null tells the null string from the empty one.
func (v Value) Null() bool { return v.null }

// Bytes returns an array argument, valid until the next message is read.
func (v Value) Bytes() []byte { return v.b }

// FD returns a descriptor argument, which whoever decoded the message owns.
func (v Value) FD() int { return v.fd }

// TakeFD returns a descriptor argument and leaves -1 in its place, so that CloseFDs passes it by.
func (v *Value) TakeFD() int {
	fd := v.fd
	v.fd = -1
	return fd
}
