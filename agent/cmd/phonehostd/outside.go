package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/phone"
)

// watchOutside keeps the warning about phones that run below another cgroup root than that of this agent. It returns when the warning
// fits the phones as they are.
func (a *agent) watchOutside(ctx context.Context) error {
	w := a.phones.Watch(nil)
	first, err := w.Next(ctx)
	if err != nil {
		w.Close()
		return fmt.Errorf("look for phones outside of %s: %w", a.cgroupRoot, err)
	}
	outside := map[string]bool{}
	a.noteOutside(outside, first)
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer w.Close()
		for {
			changes, err := w.Next(watching)
			if err != nil {
				return
			}
			a.noteOutside(outside, changes)
		}
	}()
	a.defers(func() error { stop(); <-done; return nil })
	return nil
}

// noteOutside brings the set of phones outside up to date with changes, and the warning with the set.
func (a *agent) noteOutside(outside map[string]bool, changes []phone.Change) {
	before := maps.Clone(outside)
	for _, c := range changes {
		if c.Snapshot.Outside {
			outside[c.ID] = true
		} else if c.Deleted || c.Snapshot.Status != phone.Unknown {
			delete(outside, c.ID)
		}
	}
	if maps.Equal(before, outside) {
		return
	}
	if len(outside) == 0 {
		a.logger.Info("no phone runs outside of the cgroup root any more", "root", a.cgroupRoot)
		a.health.Clear(warnOutside)
		return
	}
	ids := slices.Sorted(maps.Keys(outside))
	a.logger.Warn("phones run outside of the cgroup root until their next start", "root", a.cgroupRoot, "phones", len(ids), "phone_ids", ids)
	a.health.Set(warnOutside, health.Warning, outsideMessage(a.cgroupRoot, a.delegated, ids))
}

// maxNamed is how many phones a warning names: as many as one request may.
const maxNamed = phone.MaxPhones

// outsideMessage says how many phones are meant, what that means for them, and what mends it.
func outsideMessage(root string, delegated bool, ids []string) string {
	meaning := ""
	if delegated {
		meaning = ", which systemd does not promise to leave alone as it does there"
	}
	named, rest := ids[:min(len(ids), maxNamed)], ""
	if n := len(ids) - len(named); n > 0 {
		rest = fmt.Sprintf(", and %d more", n)
	}
	return fmt.Sprintf("phones that run outside of the cgroup %s, because they were started when the agent had another: %d. They keep the limits of "+
		"their start%s, and move with their next one: phonectl restart %s%s", root, len(ids), meaning, strings.Join(named, " "), rest)
}
