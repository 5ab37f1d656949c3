package applist

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/runtime/container"
)

// The guest's package manager is told which packages are denied, and shows a dialog in place of an app that is suspended. That is a courtesy to
// whoever holds the phone: what it says or does changes nothing of what the kernel refuses. It is told of Android user 0 alone.

const (
	// tellTime bounds a call of the package manager.
	tellTime = 30 * time.Second
	// maxTold is how many packages one call names.
	maxTold = 50
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 10
)

// tell tells the guest that runs what is denied by now, and what is not any more.
func (f *follower) tell(ctx context.Context, snap phone.Snapshot) error {
	if snap.Status != phone.Running || f.guest.pid == 0 {
		return nil
	}
	f.m.mu.Lock()
	a, deny, changes := f.w.apps, f.w.deny, f.m.changes
	f.m.mu.Unlock()
	if changes > 0 {
		f.due = true // whoever ends the last of them wakes this follower
		return nil
	}
	suspend := missing(deny, f.told)
	release := missing(a.suspended, deny)
	release = slices.DeleteFunc(release, func(name string) bool {
		if a.table == nil {
			return false
		}
		_, there := a.table.ByName(name)
		return !there // it went with its app
	})
	if len(suspend) > 0 {
		// Known before it is done: what an agent has suspended another one releases.
		if err := f.remember(ctx, func(names map[string]bool) { add(names, suspend) }); err != nil {
			return err
		}
		message := fmt.Sprintf("This app is not allowed on this phone (%s).", snap.Record.Spec.AppList)
		if err := f.run(ctx, snap, suspend, "suspend", "--user", "0", "--dialogMessage", message); err != nil {
			return err
		}
		if f.told == nil {
			f.told = map[string]bool{}
		}
		add(f.told, suspend)
	}
	if len(release) > 0 {
		if err := f.run(ctx, snap, release, "unsuspend", "--user", "0"); err != nil {
			return err
		}
	}
	if len(missing(a.suspended, deny)) == 0 {
		return nil
	}
	maps.DeleteFunc(f.told, func(name string, _ bool) bool { return !deny[name] })
	return f.remember(ctx, func(names map[string]bool) {
		maps.DeleteFunc(names, func(name string, _ bool) bool { return !deny[name] })
	})
}

// missing returns those of some that others do not have, in their order.
func missing(some, others map[string]bool) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(some)), func(name string) bool { return others[name] })
}

func add(to map[string]bool, names []string) {
	for _, name := range names {
		to[name] = true
	}
}

// remember stores which packages may be suspended.
func (f *follower) remember(ctx context.Context, edit func(names map[string]bool)) error {
	done, err := take(ctx, f.w.turn)
	if err != nil {
		return err
	}
	defer done()
	if f.w.gone {
		return nil
	}
	f.m.mu.Lock()
	a := f.w.apps
	f.m.mu.Unlock()
	names := map[string]bool{}
	maps.Copy(names, a.suspended)
	edit(names)
	a.suspended = names
	return f.m.keep(f.w, a)
}

// run has the package manager do something to packages. Those that it does not confirm, because it is of an Android that takes one at a time, are
// tried once more by themselves; what it refuses then it is left to: it does not suspend what Android cannot do without.
func (f *follower) run(ctx context.Context, snap phone.Snapshot, names []string, args ...string) error {
	for some := range slices.Chunk(names, maxTold) {
		said, err := f.exec(ctx, snap, append(slices.Clone(args), some...))
		if err != nil {
			return err
		}
		if len(some) == 1 {
			continue
		}
		for _, name := range some {
			if strings.Contains(said, "Package "+name+" new suspended state") {
				continue
			}
			if _, err := f.exec(ctx, snap, append(slices.Clone(args), name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// exec runs the package manager and returns what it said.
func (f *follower) exec(ctx context.Context, snap phone.Snapshot, args []string) (string, error) {
	kind, err := snap.Profile()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	var out answer
	code, err := f.m.cfg.Guests.Exec(ctx, f.w.id, container.ExecOptions{Args: append(slices.Clone(kind.PackageManager), args...), Stdout: &out, Stderr: &out})
	if err != nil {
		return "", fmt.Errorf("tell the package manager of %s: %w", f.w.id, err)
	}
	f.m.cfg.Logger.Debug("package manager told", "phone_id", f.w.id, "args", args, "code", code, "said", fault.Readable(out.String()))
	return out.String(), nil
}

// answer keeps what a package manager says, up to maxAnswer.
type answer struct{ bytes.Buffer }

// Write implements io.Writer.
func (a *answer) Write(p []byte) (int, error) {
	a.Buffer.Write(p[:min(len(p), maxAnswer-a.Len())])
	return len(p), nil
}
