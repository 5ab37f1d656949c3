package binder

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// memorySize is how much the driver may hold for a process in parcels that it has not freed.
const memorySize = 256 << 10

// Call is a transaction that another process asked for.
type Call struct {
	// Object is the number of the object that is called.
	Object uint64
	// Code says what is wanted.
	Code uint32
	// PID and UID are the caller's; PID is 0 where it lies outside this process's pid namespace.
	PID int32
	UID uint32
	// Data is the argument.
	Data *Parcel
}

// Handler answers calls of other processes. A Status as its error is told to the caller, any other as StatusUnknown.
type Handler interface {
	// Call answers one call; it must not keep its argument.
	Call(c *Conn, call Call) (*Parcel, error)
	// Died is told that the process of an object is gone whose death was asked for with the cookie.
	Died(c *Conn, cookie uint64)
	// Cleared is told that no Died comes any more for the cookie.
	Cleared(c *Conn, cookie uint64)
}

// Conn is an open binder device. Only the function that Do gave it to may use it.
type Conn struct {
	fd      int
	memory  []byte // the driver writes parcels there
	handler Handler
	// out holds commands that are not sent yet; pin keeps in place what they point to.
	out []byte
	pin runtime.Pinner
	in  []byte
}

// Do opens a device, such as /dev/binder, calls fn with it, on a thread of the system that nobody else uses meanwhile, and closes it.
// handler answers what others ask of this process's objects; nil if it has none. The error is fn's, or of class
// errdefs.ErrNotImplemented for a driver of another protocol.
func Do(path string, handler Handler, fn func(*Conn) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c, err := open(path, handler)
	if err != nil {
		return err
	}
	return errors.Join(fn(c), c.close())
}

func open(path string, handler Handler) (_ *Conn, err error) {
	c := &Conn{fd: -1, handler: handler, in: make([]byte, 4096)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	// Not by package os, whose poller would be one more thread to the driver.
	if c.fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		c.fd = -1
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	var version int32
	if err := c.ioctl(ioctlVersion, unsafe.Pointer(&version)); err != nil {
		return nil, fmt.Errorf("ask %s for its protocol: %w", path, err)
	}
	if version != protocolVersion {
		return nil, fmt.Errorf("%s speaks version %d of the protocol, not %d: %w", path, version, protocolVersion, errdefs.ErrNotImplemented)
	}
	if c.memory, err = unix.Mmap(c.fd, 0, memorySize, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_NORESERVE); err != nil {
		return nil, fmt.Errorf("map memory of %s: %w", path, err)
	}
	return c, nil
}

// close releases everything; others' calls to objects of this process fail from now on.
func (c *Conn) close() error {
	c.pin.Unpin()
	var errs []error
	if c.memory != nil {
		errs = append(errs, unix.Munmap(c.memory))
	}
	if c.fd >= 0 {
		errs = append(errs, unix.Close(c.fd))
	}
	return errors.Join(errs...)
}

func (c *Conn) ioctl(request uint, argument unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), uintptr(request), uintptr(argument))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// base is the address of the driver's memory.
func (c *Conn) base() uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(c.memory)))) }

// command queues a command of two words at most.
func (c *Conn) command(code uint32, argument ...uint64) {
	c.out = order.AppendUint32(c.out, code)
	switch size := code >> sizeShift & sizeMask; {
	case size == 4:
		c.out = order.AppendUint32(c.out, uint32(argument[0]))
	case size == sizeHandleCookie:
		c.out = order.AppendUint32(c.out, uint32(argument[0]))
		c.out = order.AppendUint64(c.out, argument[1])
	default:
		for _, a := range argument {
			c.out = order.AppendUint64(c.out, a)
		}
	}
}

// transaction queues a transaction or a reply with a parcel.
func (c *Conn) transaction(command uint32, t transaction, p *Parcel) {
	place := func(b []byte) (address, size uint64) {
		if len(b) == 0 {
			return 0, 0
		}
		c.pin.Pin(&b[0])
		return uint64(uintptr(unsafe.Pointer(&b[0]))), uint64(len(b))
	}
	t.data, t.dataSize = place(p.data)
	t.offsets, t.offsetsSize = place(p.packedOffsets())
	c.out = t.append(order.AppendUint32(c.out, command))
}

// flush sends the queued commands. Those behind one that does not succeed stay queued until its failure is read.
func (c *Conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if _, err := c.writeRead(false); err != nil {
		return fmt.Errorf("send commands to the binder driver: %w", err)
	}
	return nil
}

// exchange sends the queued commands and returns what the driver has for this thread, as soon as it has something.
//
// It waits in the driver. To poll the device, or to read without waiting, would cost the kernel more: a grace period of RCU for each
// thread that has polled, a line in its log for each read that finds nothing.
func (c *Conn) exchange(ctx context.Context) ([]byte, error) {
	defer c.interruptible(ctx)()
	// From here to the read nothing else may be asked of the driver: it forgets an interruption with the end of any call.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, err := c.writeRead(true)
	if err != nil {
		return nil, fmt.Errorf("talk to the binder driver: %w", err)
	}
	return c.in[:n], nil
}

// interruptAgain is when an interruption is repeated: a signal to the thread at the same time makes the driver forget it.
const interruptAgain = 100 * time.Millisecond

// interruptible has a read return without an answer when the context ends, until the function that it returns is called.
func (c *Conn) interruptible(ctx context.Context) (done func()) {
	returned, ended := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		again := time.NewTicker(interruptAgain)
		defer again.Stop()
		for {
			// The driver wakes the threads of a process that closes a descriptor of the device, be it not the last.
			if fd, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
				_ = unix.Close(fd)
			}
			select {
			case <-returned:
				return
			case <-again.C:
			}
		}
	})
	return func() {
		close(returned)
		if !stop() {
			<-ended
		}
	}
}

// writeRead is one BINDER_WRITE_READ. The commands that the driver took are off the queue, whatever it returns.
func (c *Conn) writeRead(read bool) (n int, err error) {
	// struct binder_write_read
	var a [6]uint64
	if len(c.out) > 0 {
		c.pin.Pin(&c.out[0])
		a[0], a[2] = uint64(len(c.out)), uint64(uintptr(unsafe.Pointer(&c.out[0])))
	}
	if read {
		c.pin.Pin(&c.in[0])
		a[3], a[5] = uint64(len(c.in)), uint64(uintptr(unsafe.Pointer(&c.in[0])))
	}
	err = c.ioctl(ioctlWriteRead, unsafe.Pointer(&a))
	if c.out = c.out[min(a[1], uint64(len(c.out))):]; len(c.out) == 0 {
		c.out = nil
		c.pin.Unpin()
	}
	return int(min(a[4], uint64(len(c.in)))), err
}
