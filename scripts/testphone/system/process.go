package system

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testphone/app"
	"github.com/phonehost/phonehost/scripts/testphone/packages"
	"github.com/phonehost/phonehost/scripts/testphone/zygote"
)

const (
	// startTimeout is how long a process may take to begin (ActivityManagerService.PROC_START_TIMEOUT).
	startTimeout = 10 * time.Second
	// stopTimeout is how long a killed process may take to be gone.
	stopTimeout = 5 * time.Second

	firstIsolated = 99000
	lastIsolated  = 99999
)

// key says which process it is.
type key struct {
	name string
	uid  int
}

// process is the record of an app's process. What follows mu is guarded by the activities' mu.
type process struct {
	key
	pkg   string
	label string
	user  int
	pid   int

	link  *os.File
	write sync.Mutex // held while an intent is written

	attached chan struct{} // closed when the process has begun
	ended    chan struct{} // closed when it is gone

	reason   string // why it could not begin
	activity bool   // it shows an activity
	begun    bool
	gone     bool
	next     int
	waiting  map[int]chan app.Message
}

// activities is the activity manager.
type activities struct {
	server *Server
	ctx    context.Context // of the server; processes end with it
	work   sync.WaitGroup
	start  sync.Mutex // held while a process is started, so that no two have one key

	mu        sync.Mutex
	processes map[key]*process
	isolated  int
}

func newActivities(ctx context.Context, s *Server) *activities {
	return &activities{server: s, ctx: ctx, processes: map[key]*process{}, isolated: firstIsolated}
}

// wait returns when the records of all processes are gone. ctx must have ended.
func (a *activities) wait() {
	a.mu.Lock()
	for _, p := range a.processes {
		_ = unix.Kill(p.pid, unix.SIGKILL) // its record is there, so it is not anybody else's pid
	}
	a.mu.Unlock()
	a.work.Wait()
}

// launch describes a process that is wanted.
type launch struct {
	pkg      *packages.Package
	user     int
	suffix   string // of the name: ":worker"
	isolated bool
}

// obtain returns the process, begun, and whether it was there already.
func (a *activities) obtain(ctx context.Context, l launch) (*process, bool, error) {
	a.start.Lock()
	defer a.start.Unlock()
	k := key{l.pkg.Name + l.suffix, l.pkg.UID(l.user)}
	if l.isolated {
		k.uid = a.isolatedUID(l.user)
	}
	a.mu.Lock()
	p := a.processes[k]
	a.mu.Unlock()
	if p != nil {
		return p, true, nil
	}
	p, err := a.startProcess(k, l)
	if err != nil {
		return nil, false, fmt.Errorf("process %s: %w", k.name, err)
	}
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	select {
	case <-p.attached:
		if _, err := a.server.packages.Get(l.pkg.Name); err != nil { // removed meanwhile
			a.kill(p)
			return nil, false, err
		}
		return p, false, nil
	case <-p.ended:
		return nil, false, fmt.Errorf("process %s ended before it began: %s", k.name, p.why())
	case <-limit.C:
		a.kill(p)
		return nil, false, fmt.Errorf("process %s did not begin within %v", k.name, startTimeout)
	case <-ctx.Done():
		a.kill(p)
		return nil, false, ctx.Err()
	}
}

// why is what the process said of its end. It is called after ended is closed.
func (p *process) why() string {
	if p.reason == "" {
		return "it said nothing"
	}
	return p.reason
}

// isolatedUID takes the next uid that no process has.
func (a *activities) isolatedUID(user int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range lastIsolated - firstIsolated + 1 {
		uid := packages.UID(user, a.isolated)
		if a.isolated++; a.isolated > lastIsolated {
			a.isolated = firstIsolated
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(a.processes)), func(k key) bool { return k.uid == uid }) {
			return uid
		}
	}
	return packages.UID(user, firstIsolated)
}

// startProcess asks the zygote and makes the record.
func (a *activities) startProcess(k key, l launch) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// Ours is non-blocking, so that its reads end with it.
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "link"), os.NewFile(uintptr(pair[1]), "link")
	defer theirs.Close()
	r := zygote.Request{UID: k.uid, GID: k.uid, Groups: groups(l, k.uid), Name: k.name}
	pid, err := zygote.Start(a.server.cfg.Zygote, r, theirs)
	if err != nil {
		ours.Close()
		return nil, err
	}
	p := &process{
		key: k, pkg: l.pkg.Name, label: l.pkg.Label, user: l.user, pid: pid, link: ours,
		attached: make(chan struct{}), ended: make(chan struct{}), waiting: map[int]chan app.Message{},
	}
	a.mu.Lock()
	a.processes[k] = p
	over := a.ctx.Err() != nil
	a.mu.Unlock()
	a.work.Go(func() { a.follow(p) })
	if over {
		a.kill(p)
	}
	return p, nil
}

// groups are the supplementary groups of a process (ProcessList.computeGidsForProcess).
func groups(l launch, uid int) []int {
	everybody := packages.UID(l.user, 9997)
	if l.isolated {
		return []int{everybody}
	}
	list := append(l.pkg.GIDs(), everybody)
	if id := uid % 100000; id >= 10000 && id < 20000 {
		list = append(list, packages.UID(l.user, id+10000), id+40000)
	}
	return list
}

// follow reads what a process says until it is gone.
func (a *activities) follow(p *process) {
	in := bufio.NewScanner(p.link)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var m app.Message
		if err := json.Unmarshal(in.Bytes(), &m); err != nil {
			a.server.cfg.Printf("process %d (%s): %v", p.pid, p.name, err)
			a.kill(p)
			break
		}
		a.heard(p, m)
	}
	a.forget(p)
}

// heard acts on a message.
func (a *activities) heard(p *process, m app.Message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case m.Error != "":
		p.reason = m.Error
	case m.Attached && !p.begun:
		p.begun = true
		close(p.attached)
	case m.StartService != "":
		a.work.Go(func() {
			if err := a.startService(a.ctx, p.pkg, m.StartService, p.user, nil); err != nil {
				a.server.cfg.Printf("process %d (%s) starts %s: %v", p.pid, p.name, m.StartService, err)
			}
		})
	case m.Done != 0:
		if c := p.waiting[m.Done]; c != nil {
			c <- m
			delete(p.waiting, m.Done)
		}
	}
}

// forget takes a process that is gone out of the records.
func (a *activities) forget(p *process) {
	a.mu.Lock()
	delete(a.processes, p.key)
	p.gone = true
	activity := p.activity
	for id, c := range p.waiting {
		close(c)
		delete(p.waiting, id)
	}
	a.mu.Unlock()
	close(p.ended)
	p.write.Lock()
	p.link.Close()
	p.write.Unlock()
	if activity {
		a.shown()
	}
}

// kill ends a process. Its record goes when the link ends.
func (a *activities) kill(p *process) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !p.gone {
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
}

// deliver sends an intent and returns the channel that its result comes by, closed when the process ends first.
func (a *activities) deliver(p *process, i app.Intent) (<-chan app.Message, error) {
	result := make(chan app.Message, 1)
	a.mu.Lock()
	if p.gone {
		a.mu.Unlock()
		return nil, errors.New("the process is gone")
	}
	p.next++
	i.ID = p.next
	p.waiting[i.ID] = result
	p.activity = p.activity || i.Kind == "activity"
	a.mu.Unlock()
	b, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	p.write.Lock()
	_, err = p.link.Write(append(b, '\n'))
	p.write.Unlock()
	if err == nil && i.Kind == "activity" {
		a.shown()
	}
	return result, err
}

// shown tells which apps have an activity, in the order of their names.
func (a *activities) shown() {
	if a.server.cfg.Shown == nil {
		return
	}
	a.mu.Lock()
	labels := map[string]string{}
	for _, p := range a.processes {
		if p.activity {
			labels[p.pkg] = p.label
			if p.label == "" {
				labels[p.pkg] = p.pkg
			}
		}
	}
	a.mu.Unlock()
	var list []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		list = append(list, labels[name])
	}
	a.server.cfg.Shown(a.ctx, list)
}

// stopWhere kills the processes that match and waits until they are gone.
func (a *activities) stopWhere(match func(*process) bool) {
	a.mu.Lock()
	var list []*process
	for _, p := range a.processes {
		if match(p) {
			list = append(list, p)
		}
	}
	a.mu.Unlock()
	limit := time.NewTimer(stopTimeout)
	defer limit.Stop()
	for _, p := range list {
		a.kill(p)
	}
	for _, p := range list {
		select {
		case <-p.ended:
		case <-limit.C:
			a.server.cfg.Printf("process %d (%s) is not gone %v after SIGKILL", p.pid, p.name, stopTimeout)
			return
		}
	}
}

// stop ends the processes of a package for a user, or allUsers.
func (a *activities) stop(pkg string, user int) {
	a.stopWhere(func(p *process) bool { return p.pkg == pkg && (user == allUsers || p.user == user) })
}

func (a *activities) stopPackage(pkg string) { a.stop(pkg, allUsers) }

func (a *activities) stopUser(user int) {
	a.stopWhere(func(p *process) bool { return p.user == user })
}
