package binder

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Codes that every object answers, and those of the service manager.
const (
	codePing      = '_'<<24 | 'P'<<16 | 'N'<<8 | 'G'
	codeInterface = '_'<<24 | 'N'<<16 | 'T'<<8 | 'F'

	codeGetService   = 1
	codeCheckService = 2
	codeAddService   = 3
	codeListServices = 4
)

const (
	managerHandle    = 0
	managerInterface = "android.os.IServiceManager"
	// managerName is what the service manager calls itself in its own list.
	managerName = "manager"
)

// Words at the beginning of a call.
const (
	headerSystem = 'S'<<24 | 'Y'<<16 | 'S'<<8 | 'T'
	noWorkSource = -1
	// stabilitySystem is the level of objects that are built with the system they run in.
	stabilitySystem = 12
	dumpAll         = 15
)

// putToken writes what a call begins with: strict mode, work source, kind of system, interface.
func putToken(p *Parcel, iface string) {
	p.PutInt32(0)
	p.PutInt32(noWorkSource)
	p.PutInt32(headerSystem)
	p.PutString(iface)
}

// checkToken reads it; false if the caller means another interface.
func checkToken(p *Parcel, iface string) bool {
	p.Int32()
	p.Int32()
	return p.Int32() == headerSystem && p.String() == iface && p.Err() == nil
}

// Ping calls an object that does nothing but answer; the errors are those of Transact. Handle 0 is the service manager.
func (c *Conn) Ping(ctx context.Context, handle uint32) error {
	_, err := c.Transact(ctx, handle, codePing, &Parcel{})
	return err
}

// Interface asks an object for the name of its interface.
func (c *Conn) Interface(ctx context.Context, handle uint32) (string, error) {
	p, err := c.Transact(ctx, handle, codeInterface, &Parcel{})
	if err != nil {
		return "", err
	}
	return p.String(), p.Err()
}

// CheckService asks the service manager for a service. The error is of class errdefs.ErrNotFound if there is none of that name.
func (c *Conn) CheckService(ctx context.Context, name string) (handle uint32, err error) {
	q := &Parcel{}
	putToken(q, managerInterface)
	q.PutString(name)
	p, err := c.manager(ctx, codeCheckService, q)
	if err != nil {
		return 0, fmt.Errorf("check service %q: %w", name, err)
	}
	o := p.Object()
	if err := p.Err(); err != nil {
		return 0, fmt.Errorf("check service %q: %w", name, err)
	}
	if o == nil {
		return 0, fmt.Errorf("service %q: %w", name, errdefs.ErrNotFound)
	}
	return o.Handle, nil
}

// ListServices asks the service manager for the names of all services, in order.
func (c *Conn) ListServices(ctx context.Context) ([]string, error) {
	q := &Parcel{}
	putToken(q, managerInterface)
	q.PutInt32(dumpAll)
	p, err := c.manager(ctx, codeListServices, q)
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	var names []string
	for n := p.Int32(); n > 0 && p.Err() == nil; n-- {
		names = append(names, p.String())
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	return names, nil
}

// AddService gives an object of this process, by its number from 1, a name with the service manager. The error is of class
// errdefs.ErrPermissionDenied or errdefs.ErrInvalidArgument if it refuses.
func (c *Conn) AddService(ctx context.Context, name string, local uint64) error {
	q := &Parcel{}
	putToken(q, managerInterface)
	q.PutString(name)
	q.PutObject(&Object{Local: local, Stability: stabilitySystem})
	q.PutInt32(0) // not for isolated processes
	q.PutInt32(dumpAll)
	if _, err := c.manager(ctx, codeAddService, q); err != nil {
		return fmt.Errorf("add service %q: %w", name, err)
	}
	return nil
}

// manager calls the service manager and reads the head of its answer.
func (c *Conn) manager(ctx context.Context, code uint32, q *Parcel) (*Parcel, error) {
	p, err := c.Transact(ctx, managerHandle, code, q)
	if err != nil {
		return nil, err
	}
	switch number := p.Int32(); {
	case p.Err() != nil:
		return nil, p.Err()
	case number != 0:
		return nil, exception(number, p.String())
	}
	return p, nil
}

// Exceptions that a service manager answers with (android::binder::Status).
const (
	exceptionSecurity        = -1
	exceptionIllegalArgument = -3
	exceptionIllegalState    = -5
)

// exception is the error for an exception.
func exception(number int32, message string) error {
	var class error = errdefs.ErrInternal
	switch number {
	case exceptionSecurity:
		class = errdefs.ErrPermissionDenied
	case exceptionIllegalArgument:
		class = errdefs.ErrInvalidArgument
	case exceptionIllegalState:
		class = errdefs.ErrResourceExhausted
	}
	return fmt.Errorf("the service manager says %q (%d): %w", message, number, class)
}

// putException writes the head of an answer that is an exception.
func putException(number int32, message string) *Parcel {
	p := &Parcel{}
	p.PutInt32(number)
	p.PutString(message)
	p.PutInt32(0) // no stack
	return p
}

// validName tells what Android takes as the name of a service.
func validName(name string) bool {
	return len(name) >= 1 && len(name) <= 127 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") == ""
}

// Service is a Handler for objects that can only be found: each answers pings and says its interface, and nothing else.
type Service struct {
	// Name is the interface that the objects have.
	Name string
}

// Call implements Handler.
func (s Service) Call(_ *Conn, call Call) (*Parcel, error) { return common(call.Code, s.Name) }

// Died implements Handler.
func (s Service) Died(*Conn, uint64) {}

// Cleared implements Handler.
func (s Service) Cleared(*Conn, uint64) {}

// common answers what every object does.
func common(code uint32, iface string) (*Parcel, error) {
	p := &Parcel{}
	switch code {
	case codePing:
		return p, nil
	case codeInterface:
		p.PutString(iface)
		return p, nil
	}
	return nil, StatusUnknownCode
}
