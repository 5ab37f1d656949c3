package binder

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Status is what a callee says instead of an answer: libbinder's status_t.
type Status int32

// The statuses that are used here.
const (
	StatusPermissionDenied Status = -1          // -EPERM
	StatusUnknownCode      Status = -74         // UNKNOWN_TRANSACTION, -EBADMSG
	StatusUnknown          Status = -0x80000000 // UNKNOWN_ERROR
)

// Error names the number.
func (s Status) Error() string { return fmt.Sprintf("binder status %d", int32(s)) }

// Transact calls an object of another process and waits for its answer. Errors: a Status of the callee; errdefs.ErrUnavailable if the
// object's process is gone, or for handle 0 if the device has no service manager; errdefs.ErrInternal if the driver could not deliver
// it; the context's, after which nothing more can be called. Objects in the answer are kept as long as the Conn. While it waits, calls
// of this process's own objects are answered that belong to it.
func (c *Conn) Transact(ctx context.Context, handle, code uint32, p *Parcel) (*Parcel, error) {
	c.transaction(bcTransaction, transaction{target: uint64(handle), code: code}, p)
	var answer *Parcel
	var failure error
	for answer == nil && failure == nil {
		err := c.take(ctx, func(command uint32, argument []byte) (err error) {
			switch command {
			case brReply:
				answer, failure, err = c.reply(argument)
			case brDeadReply:
				failure = fmt.Errorf("call object %d: its process is gone, or it never was: %w", handle, errdefs.ErrUnavailable)
			case brFailedReply, brFrozenReply:
				failure = fmt.Errorf("call object %d: the driver could not deliver the call or its answer: %w", handle, errdefs.ErrInternal)
			default:
				err = c.handle(command, argument)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return answer, failure
}

// take waits for answers of the driver and has each done.
func (c *Conn) take(ctx context.Context, do func(command uint32, argument []byte) error) error {
	b, err := c.exchange(ctx)
	for err == nil && len(b) > 0 {
		var command uint32
		var argument []byte
		if command, argument, b, err = nextAnswer(b); err == nil {
			err = do(command, argument)
		}
	}
	return err
}

// reply takes the answer to a call, or the callee's refusal.
func (c *Conn) reply(argument []byte) (answer *Parcel, refusal, err error) {
	t, p, err := c.parcel(argument)
	if err != nil {
		return nil, nil, err
	}
	for _, at := range p.offsets { // or they would go with the buffer
		if order.Uint32(p.data[at:]) == typeHandle {
			c.command(bcAcquire, uint64(order.Uint32(p.data[at+8:])))
		}
	}
	c.command(bcFreeBuffer, t.data)
	if err := c.flush(); err != nil {
		return nil, nil, err
	}
	if t.flags&flagStatus != 0 {
		if s := Status(p.Int32()); p.err == nil && s != 0 {
			return nil, s, nil
		}
	}
	return p, nil, nil
}

// parcel copies what a transaction carries.
func (c *Conn) parcel(argument []byte) (transaction, *Parcel, error) {
	t := readTransaction(argument)
	data, ok := within(c.memory, c.base(), t.data, t.dataSize)
	offsets, also := within(c.memory, c.base(), t.offsets, t.offsetsSize)
	if !ok || !also {
		return t, nil, fmt.Errorf("parcel of %d bytes at %#x lies outside the driver's memory: %w", t.dataSize, t.data, errdefs.ErrDataLoss)
	}
	p := received(data, offsets)
	for _, at := range p.offsets {
		if at > uint64(len(p.data)) || uint64(len(p.data))-at < sizeObject {
			return t, nil, fmt.Errorf("parcel of %d bytes with an object at %d: %w", len(p.data), at, errdefs.ErrDataLoss)
		}
	}
	return t, p, nil
}

// Serve answers calls of this process's objects until the context ends, whose error it returns.
func (c *Conn) Serve(ctx context.Context) error {
	c.command(bcEnterLooper)
	for {
		if err := c.take(ctx, c.handle); err != nil {
			return err
		}
	}
}

// handle does what an answer of the driver asks for that is not the end of a call of this thread's own.
func (c *Conn) handle(command uint32, argument []byte) error {
	switch command {
	case brError:
		return fmt.Errorf("the binder driver reports error %d: %w", int32(order.Uint32(argument)), errdefs.ErrInternal)
	case brTransaction:
		return c.answer(argument)
	case brIncRefs: // this process's objects live as long as it does: counting them is the driver's
		c.command(bcIncRefsDone, order.Uint64(argument), order.Uint64(argument[8:]))
	case brAcquire:
		c.command(bcAcquireDone, order.Uint64(argument), order.Uint64(argument[8:]))
	case brDeadBinder:
		cookie := order.Uint64(argument)
		c.command(bcDeadDone, cookie) // before the object may be let go, and its watch with it
		if c.handler != nil {
			c.handler.Died(c, cookie)
		}
	case brClearDeathDone:
		if c.handler != nil {
			c.handler.Cleared(c, order.Uint64(argument))
		}
	}
	return nil
}

// answer has the handler answer a call.
func (c *Conn) answer(argument []byte) error {
	t, p, err := c.parcel(argument)
	if err != nil {
		return err
	}
	answer := &Parcel{}
	if c.handler == nil {
		err = StatusUnknownCode
	} else {
		answer, err = c.handler.Call(c, Call{Object: t.target, Code: t.code, PID: t.pid, UID: t.uid, Data: p})
	}
	c.command(bcFreeBuffer, t.data) // after what the handler has queued, which may be to keep an object in it
	if t.flags&flagOneWay != 0 {
		return nil
	}
	reply := transaction{}
	if err != nil {
		status := StatusUnknown
		errors.As(err, &status)
		answer, reply.flags = &Parcel{}, flagStatus
		answer.PutInt32(int32(status))
	}
	c.transaction(bcReply, reply, answer)
	return nil
}

// BecomeContextManager makes the object of this process with the number local, not 0, the one that everybody reaches as handle 0. The
// error is of class errdefs.ErrAlreadyExists if the device has one.
func (c *Conn) BecomeContextManager(local uint64) error {
	p := &Parcel{}
	p.PutObject(&Object{Local: local})
	err := c.ioctl(ioctlSetContextMgr, unsafe.Pointer(unsafe.SliceData(p.data)))
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("become the context manager: the device has one: %w", errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("become the context manager: %w", err)
	}
	return nil
}

// Acquire keeps an object of another process until Release, beyond the call that it came with.
func (c *Conn) Acquire(handle uint32) { c.command(bcAcquire, uint64(handle)) }

// Release lets go of an object.
func (c *Conn) Release(handle uint32) { c.command(bcRelease, uint64(handle)) }

// WatchDeath has the handler told of the death of an object's process; once for each object at most.
func (c *Conn) WatchDeath(handle uint32, cookie uint64) {
	c.command(bcRequestDeath, uint64(handle), cookie)
}

// UnwatchDeath undoes WatchDeath; the handler is told when that is done.
func (c *Conn) UnwatchDeath(handle uint32, cookie uint64) {
	c.command(bcClearDeath, uint64(handle), cookie)
}
