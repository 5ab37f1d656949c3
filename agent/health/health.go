// Package health is the agent's register of named warnings: states of ill health that last until their cause is gone.
//
// Whoever notices that something is wrong sets a warning, and clears it when it is well again; the API, phonectl doctor, the
// metrics endpoint and the standard gRPC health service all read the same register. It holds nothing durable and knows
// nothing of gRPC. One mutex guards everything; subscribers are called without it, one call at a time, in the order of the
// changes.
package health

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Severity says how bad a warning is.
type Severity int

const (
	// Warning: something works less well than it could.
	Warning Severity = iota + 1
	// Error: something that phones need does not work.
	Error
)

// String returns "warning" or "error".
func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// Finding is one standing warning.
type Finding struct {
	// Name of the warning, such as "containerd-lost": lower-case words joined by hyphens, out of a closed set.
	Name string
	// Severity of it.
	Severity Severity
	// Message says what is wrong and how to mend it.
	Message string
	// Since is when the warning was set first.
	Since time.Time
}

// Registry holds the standing warnings. The zero value is not usable; its methods may be called by any goroutine.
type Registry struct {
	now func() time.Time

	mu          sync.Mutex // guards what follows
	standing    map[string]Finding
	subscribers map[int]func(serving bool)
	nextName    int
	version     uint64 // of standing

	telling sync.Mutex // held while subscribers are called; taken before mu
	told    uint64     // guarded by telling: version that the subscribers know
}

// New returns a register without warnings. now tells the time; nil means time.Now.
func New(now func() time.Time) *Registry {
	if now == nil {
		now = time.Now
	}
	return &Registry{now: now, standing: make(map[string]Finding), subscribers: make(map[int]func(bool))}
}

// Set makes a warning stand. A warning that stands already keeps its beginning; its severity and message are replaced.
func (r *Registry) Set(name string, severity Severity, message string) {
	r.mu.Lock()
	f, ok := r.standing[name]
	if ok && f.Severity == severity && f.Message == message {
		r.mu.Unlock()
		return
	}
	if !ok {
		f = Finding{Name: name, Since: r.now()}
	}
	f.Severity, f.Message = severity, message
	r.standing[name] = f
	r.version++
	r.mu.Unlock()
	r.tell()
}

// Clear ends a warning; it does nothing when the warning does not stand.
func (r *Registry) Clear(name string) {
	r.mu.Lock()
	if _, ok := r.standing[name]; !ok {
		r.mu.Unlock()
		return
	}
	delete(r.standing, name)
	r.version++
	r.mu.Unlock()
	r.tell()
}

// List returns the standing warnings in order of their names.
func (r *Registry) List() []Finding {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Finding, 0, len(r.standing))
	for _, f := range r.standing {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Finding) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Serving tells whether phones can be served: whether no warning of severity Error stands.
func (r *Registry) Serving() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.serving()
}

func (r *Registry) serving() bool {
	for _, f := range r.standing {
		if f.Severity == Error {
			return false
		}
	}
	return true
}

// Subscribe calls fn now and after every change of the register with what Serving returns, until cancel is called. fn must
// not call Set, Clear or Subscribe.
func (r *Registry) Subscribe(fn func(serving bool)) (cancel func()) {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.mu.Lock()
	r.nextName++
	name := r.nextName
	r.subscribers[name] = fn
	serving := r.serving()
	r.mu.Unlock()
	fn(serving)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.subscribers, name)
	}
}

// tell calls the subscribers unless another call of tell has told them as much already.
func (r *Registry) tell() {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.mu.Lock()
	if r.told == r.version {
		r.mu.Unlock()
		return
	}
	r.told = r.version
	serving := r.serving()
	fns := make([]func(bool), 0, len(r.subscribers))
	for _, fn := range r.subscribers {
		fns = append(fns, fn)
	}
	r.mu.Unlock()
	for _, fn := range fns {
		fn(serving)
	}
}
