// Package applist keeps the lists of apps of this host, and has them hold on its phones.
//
// It owns the buckets "applists" and "apps" of the store (drawn in agent/store) and is the only caller of the kernel's side of lists. What a list
// means is netpolicy/applist's, which app of a phone has which uid netpolicy/packages', and which phone is on which list package phone's: its
// record names the list.
//
// # From a list to the kernel
//
// A phone's rules are made of its list, of the packages that came with its image, and of its table of packages: the newest that was read, which
// is stored, so that they are complete before the guest's first process runs (Ready, which under a list that allows waits until the image has been
// read, for half a minute at most). They are set whenever one of these changes: by the call that
// changes the list or assigns it, which waits for that, and by the phone's follower. Then apps are ended that run and may not any more, and the
// guest's package manager is told, so that a person sees why an app does not start; the kernel decides whether it obeys or not.
//
// A table is complete when it was read after a boot of the phone's present data and image has completed. Before, apps whose ids no table has run
// under every list: a phone that boots for the first time has no table, and its launcher must start. From then on, also when the agent is gone
// and when the phone starts again, they are denied under lists that allow, and run under lists that deny until the table has them, which
// the follower then reports (Stopped) if the list denies them.
//
// The packages of the image are those that were read from the image itself (Config.Images). What the phone's table says of them, which is the
// guest's word, counts for two cases only: for packages in packed APEX files that could not be read, where the image has such; and where the
// image could not be read, which the phone's State tells. Where nothing is known at all, a list that allows judges by name alone, and says so.
//
// # What a crash leaves
//
// A change is stored before it is made. Start makes the kernel's rules what is stored, and takes away those of phones that are gone; what an agent
// that died was about to set, the next one sets before any guest is started.
//
// # Goroutines
//
// A Manager owns one goroutine that hears of the phones, one follower for each phone that is or was on a list, one that hears of refusals, one
// that reads them, one that looks once a minute for what slipped past the kernel, and one that writes refusals into the journal. Close waits for
// all. Its methods may be called by many goroutines at once. For one phone, whoever sets its rules has its turn.
package applist

import (
	"context"
	"fmt"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/netpolicy/applist"
	"github.com/phonehost/phonehost/netpolicy/packages"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/image/preinstalled"
)

// Enforcer is what this package needs of the kernel's side (netpolicy/appguard.Guard). What was set stays in force when the agent ends.
type Enforcer interface {
	// Status tells what is refused, as was shown last.
	Status() Status
	// SetPhone puts in force what the apps below a cgroup may do, at once: no verdict is made by a part of it. A slot is one phone's, whose former
	// cgroup is without rules then. ErrNotImplemented: this host refuses nothing.
	SetPhone(cgroup uint64, r Rules) error
	// RemovePhone ends that; refusals that were not drained are lost. No error where there is nothing.
	RemovePhone(cgroup uint64) error
	// Phones returns the slots of all cgroups that have rules.
	Phones() map[uint64]uint32
	// Kill ends the processes below a cgroup's directory whose app id is doomed, and returns how many when they have ended.
	Kill(ctx context.Context, dir string, doomed func(app uint32) bool) (killed int, err error)
	// DrainDenials takes the refusals of a slot's phone and reports them, unless there are none. Those of which report returns an error come
	// again.
	DrainDenials(slot uint32, report func([]Refusal) error) error
	// Events yields the slots in which something new was refused, until the context ends.
	Events(ctx context.Context) iter.Seq2[uint32, error]
}

// Rules are what the apps of a phone may do.
type Rules struct {
	// Slot is the phone's (phone.Record.Slot).
	Slot uint32
	// Names judge installations, Apps launches and the network.
	Names applist.Names
	Apps  applist.Apps
}

// Status is what a host's kernel refuses.
type Status struct {
	// Tier is "A" to "D", and Mechanism the name of how; both are empty where nothing is refused.
	Tier, Mechanism string
	// Install, Launch and Network tell whether each is refused.
	Install, Launch, Network bool
	// Why says why it is no better.
	Why []string
	// Checked is when that was last tried.
	Checked time.Time
}

// missing names what is not refused.
func (s Status) missing() []string {
	var all []string
	for _, part := range []struct {
		word string
		kept bool
	}{{"installations", s.Install}, {"launches", s.Launch}, {"the network", s.Network}} {
		if !part.kept {
			all = append(all, part.word)
		}
	}
	return all
}

// equal reports whether two statuses promise the same.
func (s Status) equal(o Status) bool {
	return s.Tier == o.Tier && s.Mechanism == o.Mechanism && s.Install == o.Install && s.Launch == o.Launch && s.Network == o.Network && slices.Equal(s.Why, o.Why)
}

// Kind is what was refused. The numbers are the API's.
type Kind int

// The kinds.
const (
	// Install is an installation or an update.
	Install Kind = 1
	// Launch is a process that was about to take an app's uid.
	Launch Kind = 2
	// Network is the use of the network.
	Network Kind = 3
	// Stopped is no refusal: processes were ended that ran when their app was denied.
	Stopped Kind = 4
)

// String is the kind as events have it.
func (k Kind) String() string {
	switch k {
	case Install:
		return "install"
	case Launch:
		return "launch"
	case Network:
		return "network"
	case Stopped:
		return "stopped"
	}
	return "other"
}

// Refusal is what the kernel has refused alike.
type Refusal struct {
	Kind Kind
	// UID is the app's, or the installer's.
	UID uint32
	// Package is what was not to be installed, as the guest named it: any bytes.
	Package string
	// Unlisted refusals found no room: of them a Kind and a Count alone are known.
	Unlisted bool
	// Count is how many.
	Count       uint64
	First, Last time.Time
}

// Cgroup is the cgroup that all of a guest is below.
type Cgroup struct {
	// ID is by what the kernel's programs know it, and Dir its directory in cgroup v2.
	ID  uint64
	Dir string
}

// Guests is what this package needs of the engine that runs guests (container.Engine).
type Guests interface {
	// Cgroup returns a guest's cgroup, which is there before its first process and stays when it has ended. ErrNotFound: the phone was never
	// started; ErrNotImplemented: this host has no cgroup v2.
	Cgroup(id string) (Cgroup, error)
	// Root opens the root directory of a running guest, O_PATH will do. ErrFailedPrecondition: it does not run.
	Root(ctx context.Context, id string) (*os.File, error)
	// Exec runs a process in a running guest.
	Exec(ctx context.Context, id string, o container.ExecOptions) (exitCode uint32, err error)
}

// Packages follows the lists of packages of running guests (*packages.Watcher).
type Packages interface {
	Follow(ctx context.Context, root *os.File) <-chan packages.Update
}

// Images tells which packages came with images (*imageapps.Keeper).
type Images interface {
	// Packages returns those of an image, by its digest, as far as is known now. They are not to be changed. The error says why they are not known.
	Packages(digest string) (preinstalled.Packages, error)
	// Await waits until they are known, or could not be read: then the error says why.
	Await(ctx context.Context, digest string) error
}

// Phones is what this package needs of the phones (*phone.Supervisor).
type Phones interface {
	Get(id string) (phone.Snapshot, error)
	List() []phone.Snapshot
	Watch(ids []string) *phone.Watcher
	// Refresh tells those who watch a phone that its State has changed.
	Refresh(id string)
	SetAppLists(ids []string, name string, move bool, requestedBy string) ([]error, error)
}

// Unavailable is the Enforcer of a host that refuses nothing, for a reason. Lists are kept there, and told to the guests' package managers.
type Unavailable struct{ Err error }

// Status says why.
func (u Unavailable) Status() Status { return Status{Why: []string{fault.Words(u.Err)}} }

// SetPhone fails with errdefs.ErrNotImplemented.
func (u Unavailable) SetPhone(uint64, Rules) error {
	return fmt.Errorf("%v: %w", u.Err, errdefs.ErrNotImplemented)
}

// RemovePhone does nothing.
func (Unavailable) RemovePhone(uint64) error { return nil }

// Phones returns none.
func (Unavailable) Phones() map[uint64]uint32 { return nil }

// Kill does nothing: what is ended would start again.
func (Unavailable) Kill(context.Context, string, func(uint32) bool) (int, error) { return 0, nil }

// DrainDenials reports nothing.
func (Unavailable) DrainDenials(uint32, func([]Refusal) error) error { return nil }

// Events waits until the context ends.
func (Unavailable) Events(ctx context.Context) iter.Seq2[uint32, error] {
	return func(func(uint32, error) bool) { <-ctx.Done() }
}
