package binder

import (
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"
)

// order is the byte order of all machines that the driver is used on here.
var order = binary.LittleEndian

// Numbers of ioctls and commands are made as the kernel makes them: direction, size of the argument, type, number.
const (
	dirNone  = 0
	dirWrite = 1 << 30
	dirRead  = 2 << 30

	sizeShift = 16
	sizeMask  = 1<<14 - 1
)

// Sizes of the kernel's structures.
const (
	sizeWriteRead    = 48
	sizeTransaction  = 64
	sizeObject       = 24 // flat_binder_object
	sizePtrCookie    = 16
	sizeHandleCookie = 12 // packed
)

// The ioctls.
const (
	ioctlWriteRead     = dirRead | dirWrite | sizeWriteRead<<sizeShift | 'b'<<8 | 1
	ioctlVersion       = dirRead | dirWrite | 4<<sizeShift | 'b'<<8 | 9
	ioctlSetContextMgr = dirWrite | sizeObject<<sizeShift | 'b'<<8 | 13 // BINDER_SET_CONTEXT_MGR_EXT

	protocolVersion = 8
)

// Commands to the driver.
const (
	bcTransaction  = dirWrite | sizeTransaction<<sizeShift | 'c'<<8
	bcReply        = dirWrite | sizeTransaction<<sizeShift | 'c'<<8 | 1
	bcFreeBuffer   = dirWrite | 8<<sizeShift | 'c'<<8 | 3
	bcAcquire      = dirWrite | 4<<sizeShift | 'c'<<8 | 5
	bcRelease      = dirWrite | 4<<sizeShift | 'c'<<8 | 6
	bcIncRefsDone  = dirWrite | sizePtrCookie<<sizeShift | 'c'<<8 | 8
	bcAcquireDone  = dirWrite | sizePtrCookie<<sizeShift | 'c'<<8 | 9
	bcEnterLooper  = dirNone | 'c'<<8 | 12
	bcRequestDeath = dirWrite | sizeHandleCookie<<sizeShift | 'c'<<8 | 14
	bcClearDeath   = dirWrite | sizeHandleCookie<<sizeShift | 'c'<<8 | 15
	bcDeadDone     = dirWrite | 8<<sizeShift | 'c'<<8 | 16
)

// Answers of the driver; those that are not named here need nothing to be done.
const (
	brError          = dirRead | 4<<sizeShift | 'r'<<8
	brTransaction    = dirRead | sizeTransaction<<sizeShift | 'r'<<8 | 2
	brReply          = dirRead | sizeTransaction<<sizeShift | 'r'<<8 | 3
	brDeadReply      = dirNone | 'r'<<8 | 5
	brIncRefs        = dirRead | sizePtrCookie<<sizeShift | 'r'<<8 | 7
	brAcquire        = dirRead | sizePtrCookie<<sizeShift | 'r'<<8 | 8
	brDeadBinder     = dirRead | 8<<sizeShift | 'r'<<8 | 15
	brClearDeathDone = dirRead | 8<<sizeShift | 'r'<<8 | 16
	brFailedReply    = dirNone | 'r'<<8 | 17
	brFrozenReply    = dirNone | 'r'<<8 | 18
)

// Flags of a transaction.
const (
	flagOneWay = 0x01
	flagStatus = 0x08 // the data is a status of 4 bytes
)

// Types of objects in a parcel.
const (
	typeBinder = 's'<<24 | 'b'<<16 | '*'<<8 | 0x85
	typeHandle = 's'<<24 | 'h'<<16 | '*'<<8 | 0x85
)

// leastNice is a flag of local objects: calls of them run at the caller's nice value, and need not be better than this.
const leastNice = 19

// transaction is struct binder_transaction_data.
type transaction struct {
	target      uint64 // a handle in a command, an object's number in an answer
	cookie      uint64
	code, flags uint32
	pid         int32 // of the sender, as the receiver's pid namespace has it
	uid         uint32
	dataSize    uint64
	offsetsSize uint64
	data        uint64 // addresses
	offsets     uint64
}

func (t *transaction) append(b []byte) []byte {
	b = order.AppendUint64(b, t.target)
	b = order.AppendUint64(b, t.cookie)
	b = order.AppendUint32(b, t.code)
	b = order.AppendUint32(b, t.flags)
	b = order.AppendUint32(b, uint32(t.pid))
	b = order.AppendUint32(b, t.uid)
	b = order.AppendUint64(b, t.dataSize)
	b = order.AppendUint64(b, t.offsetsSize)
	b = order.AppendUint64(b, t.data)
	return order.AppendUint64(b, t.offsets)
}

// readTransaction reads one of sizeTransaction bytes.
func readTransaction(b []byte) transaction {
	return transaction{
		target: order.Uint64(b), cookie: order.Uint64(b[8:]), code: order.Uint32(b[16:]), flags: order.Uint32(b[20:]),
		pid: int32(order.Uint32(b[24:])), uid: order.Uint32(b[28:]), dataSize: order.Uint64(b[32:]), offsetsSize: order.Uint64(b[40:]),
		data: order.Uint64(b[48:]), offsets: order.Uint64(b[56:]),
	}
}

// nextAnswer takes the first answer off what the driver wrote: its command, its argument, the rest.
func nextAnswer(b []byte) (command uint32, argument, rest []byte, err error) {
	if len(b) < 4 {
		return 0, nil, nil, fmt.Errorf("answer of %d bytes: %w", len(b), errdefs.ErrDataLoss)
	}
	command = order.Uint32(b)
	size := int(command >> sizeShift & sizeMask)
	if size > len(b)-4 {
		return 0, nil, nil, fmt.Errorf("answer %#x has %d bytes of %d: %w", command, len(b)-4, size, errdefs.ErrDataLoss)
	}
	return command, b[4 : 4+size], b[4+size:], nil
}

// within returns what lies at an address, in the memory that begins at base; false if part of it lies elsewhere.
func within(memory []byte, base, address, size uint64) ([]byte, bool) {
	if size == 0 {
		return nil, true
	}
	if address < base || address-base > uint64(len(memory)) || size > uint64(len(memory))-(address-base) {
		return nil, false
	}
	from := address - base
	return memory[from : from+size], true
}
