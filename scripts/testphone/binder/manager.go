package binder

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
)

const (
	// managerObject is the service manager's own object.
	managerObject = 1
	// firstAppUID is that of the first app: apps add no services. Uids repeat for each user of the phone.
	firstAppUID  = 10000
	uidsOfUser   = 100000
	maxServices  = 1024
	firstCookie  = 1
	listedAtMost = 128 << 10 // bytes of names in an answer, half of what a caller's driver memory holds
)

// manager is the service manager: what has which name. Only Serve's goroutine uses it.
type manager struct {
	log      *slog.Logger
	services map[string]service
	// watched are the objects that have names, by handle; cookies are the same and those that are about to be let go.
	watched map[uint32]*watch
	cookies map[uint64]*watch
	next    uint64
}

type service struct {
	object Object
	pid    int32
}

// watch is an object that is kept and whose death is asked for.
type watch struct {
	handle uint32
	cookie uint64
	names  int
}

// ServeManager becomes the context manager of a device and is its service manager until the context ends. The error is the context's, or
// of class errdefs.ErrAlreadyExists if the device has a context manager.
func ServeManager(ctx context.Context, path string, log *slog.Logger) error {
	m := &manager{log: log, services: map[string]service{}, watched: map[uint32]*watch{}, cookies: map[uint64]*watch{}, next: firstCookie}
	m.services[managerName] = service{object: Object{Local: managerObject, Stability: stabilitySystem}}
	return Do(path, m, func(c *Conn) error {
		if err := c.BecomeContextManager(managerObject); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		log.Info("service manager", "device", path)
		return c.Serve(ctx)
	})
}

// Call implements Handler.
func (m *manager) Call(c *Conn, call Call) (*Parcel, error) {
	if call.Object != managerObject {
		return nil, StatusUnknownCode
	}
	switch call.Code {
	case codeGetService, codeCheckService, codeAddService, codeListServices:
		if !checkToken(call.Data, managerInterface) {
			return nil, StatusPermissionDenied
		}
	}
	switch call.Code {
	case codeGetService, codeCheckService:
		return m.check(call), nil
	case codeAddService:
		return m.add(c, call), nil
	case codeListServices:
		return m.list(), nil
	}
	return common(call.Code, managerInterface)
}

func (m *manager) check(call Call) *Parcel {
	name := call.Data.String()
	if err := call.Data.Err(); err != nil {
		return putException(exceptionIllegalArgument, err.Error())
	}
	p := &Parcel{}
	p.PutInt32(0)
	if s, ok := m.services[name]; ok {
		p.PutObject(&s.object)
	} else {
		p.PutObject(nil)
	}
	return p
}

func (m *manager) list() *Parcel {
	names := slices.Sorted(maps.Keys(m.services))
	size := 0
	for i, name := range names {
		if size += 4 + 2*len(name) + 4; size > listedAtMost {
			names = names[:i]
			break
		}
	}
	p := &Parcel{}
	p.PutInt32(0)
	p.PutInt32(int32(len(names)))
	for _, name := range names {
		p.PutString(name)
	}
	return p
}

func (m *manager) add(c *Conn, call Call) *Parcel {
	name, object := call.Data.String(), call.Data.Object()
	_, known := m.services[name]
	switch {
	case call.UID%uidsOfUser >= firstAppUID:
		return putException(exceptionSecurity, "apps add no services")
	case call.Data.Err() != nil:
		return putException(exceptionIllegalArgument, call.Data.Err().Error())
	case !validName(name) || name == managerName:
		return putException(exceptionIllegalArgument, "the name of a service is 1..127 of A-Z a-z 0-9 _ - . / and not "+managerName)
	case object == nil || object.Local != 0:
		return putException(exceptionIllegalArgument, "a service needs an object")
	case !known && len(m.services) >= maxServices:
		return putException(exceptionIllegalState, fmt.Sprintf("there are %d services, the most that can be", maxServices))
	}
	m.keep(c, object.Handle)
	if known {
		m.drop(c, name)
	}
	m.services[name] = service{object: *object, pid: call.PID}
	m.log.Info("service added", "name", name, "pid", call.PID)
	p := &Parcel{}
	p.PutInt32(0)
	return p
}

// keep counts one more name of an object.
func (m *manager) keep(c *Conn, handle uint32) {
	w := m.watched[handle]
	if w == nil {
		w = &watch{handle: handle, cookie: m.next}
		m.next++
		m.watched[handle], m.cookies[w.cookie] = w, w
		c.Acquire(handle)
		c.WatchDeath(handle, w.cookie)
	}
	w.names++
}

// drop takes a name off an object. An object without a name is let go when the driver says that no death of it will be told: until then
// its handle stays the same object's, and it may even get a name again, with a watch of its own.
func (m *manager) drop(c *Conn, name string) {
	w := m.watched[m.services[name].object.Handle]
	delete(m.services, name)
	if w.names--; w.names == 0 {
		delete(m.watched, w.handle)
		c.UnwatchDeath(w.handle, w.cookie)
	}
}

// Died implements Handler: the names of an object whose process is gone are free again.
func (m *manager) Died(c *Conn, cookie uint64) {
	w := m.cookies[cookie]
	if w == nil || w.names == 0 { // being let go: Cleared follows
		return
	}
	for name, s := range m.services {
		if s.object.Local == 0 && s.object.Handle == w.handle {
			delete(m.services, name)
			m.log.Info("service gone", "name", name, "pid", s.pid)
		}
	}
	delete(m.watched, w.handle)
	delete(m.cookies, cookie)
	c.Release(w.handle)
}

// Cleared implements Handler.
func (m *manager) Cleared(c *Conn, cookie uint64) {
	if w := m.cookies[cookie]; w != nil {
		delete(m.cookies, cookie)
		c.Release(w.handle)
	}
}
