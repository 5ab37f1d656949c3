package applist

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/netpolicy/applist"
)

// verdict is a list applied to a phone.
type verdict struct {
	rules Rules
	// preinstalled are the packages of the image, as far as they are known.
	preinstalled map[string]bool
	// blind says why launches and the network are not judged though there is a table; empty where they are.
	blind string
	// unread says that a list that allows goes by the table's word for what came with the image; empty where it does not.
	unread string
}

// judge applies a list to what is known of a phone's apps.
func (m *Manager) judge(l applist.List, slot uint32, a apps) verdict {
	image, allows := m.imageApps(a.image, a.table), l.Enabled && l.Mode == applist.Allow
	v := verdict{preinstalled: image.names, rules: Rules{Slot: slot, Names: applist.Compile(l, image.names)}}
	table := a.table
	if allows {
		v.unread = image.unread
	}
	if allows && !image.known && table != nil {
		// To deny all that is not listed would be to deny the launcher too.
		table, v.blind = nil, "the phone's list of packages does not say either which came with the image (Android 12 and newer do): nothing is denied by app id"
	}
	v.rules.Apps = applist.Verdicts(l, image.names, table)
	v.rules.Apps.UnknownDeny = v.rules.Apps.UnknownDeny && a.complete
	return v
}

// same reports whether two verdicts are the same to processes that run.
func (r Rules) same(o Rules) bool {
	if r.Apps.UnknownDeny != o.Apps.UnknownDeny || r.Apps.IsolatedDeny != o.Apps.IsolatedDeny || len(r.Apps.Verdicts) != len(o.Apps.Verdicts) {
		return false
	}
	for app, bits := range r.Apps.Verdicts {
		if have, known := o.Apps.Verdicts[app]; !known || have != bits {
			return false
		}
	}
	return true
}

// doomed reports whether the processes of an app have to end.
func (r Rules) doomed(app uint32) bool { return r.Apps.Judge(app)&applist.RunDeny != 0 }

// denied returns the packages of a table that may not run.
func (r Rules) denied(a apps) map[string]bool {
	names := map[string]bool{}
	if a.table == nil {
		return names
	}
	for app, bits := range r.Apps.Verdicts {
		if bits&applist.RunDeny == 0 {
			continue
		}
		for _, p := range a.table.ByAppID(app) {
			names[p.Name] = true
		}
	}
	return names
}

// checkStrict refuses a list that is strict, where the kernel does not keep all of it.
func (m *Manager) checkStrict(l applist.List) error {
	if !l.Strict || !l.Enabled {
		return nil
	}
	status := m.cfg.Enforcer.Status()
	missing := status.missing()
	if len(missing) == 0 {
		return nil
	}
	return fault.New(errdefs.ErrFailedPrecondition, StrictNotKept, "app list %q is strict, and this host's kernel (%s) does not refuse %s: %s",
		l.Name, tierWords(status), spoken(missing), fault.Readable(strings.Join(status.Why, "; "))).With("missing", strings.Join(missing, ","))
}

func tierWords(s Status) string {
	if s.Tier == "" {
		return "no tier"
	}
	return "tier " + s.Tier
}

// gap says what of a list the kernel does not enforce on this host; empty where it enforces all.
func (s Status) gap() string {
	missing := s.missing()
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("this host's kernel (%s) does not refuse %s", tierWords(s), spoken(missing))
}

// Gaps says what of a list the kernel does not enforce on this host, and why; empty where it enforces all.
func (s Status) Gaps() string {
	gap := s.gap()
	if gap == "" {
		return ""
	}
	return gap + ": " + fault.Readable(strings.Join(s.Why, "; "))
}

// spoken joins words as one says them: "a, b and c".
func spoken(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

// sharedErr is the fault for a list that denies apps of a phone which it does not mean to.
func sharedErr(id string, a applist.Apps) error {
	if err := a.Err(); err != nil {
		return fault.New(errdefs.ErrFailedPrecondition, SharedUID, "phone %s: %s", id, fault.Readable(fault.Words(err)))
	}
	return nil
}

// remarks are what to know of a list: its own, and those of its phones' apps, alike ones together.
type remarks struct {
	own   []string
	texts []string // in the order in which they came
	of    map[string][]string
}

// maxRemarks bounds the remarks of one answer, and maxNamed how many phones are named by one.
const (
	maxRemarks = 50
	maxNamed   = 5
)

// add takes in what to know of a phone's apps.
func (r *remarks) add(id string, warnings []applist.Warning) {
	if r.of == nil {
		r.of = map[string][]string{}
	}
	for _, w := range warnings {
		text := w.String()
		if r.of[text] == nil {
			r.texts = append(r.texts, text)
		}
		r.of[text] = append(r.of[text], id)
	}
}

// all returns them.
func (r *remarks) all() []string {
	all := slices.Clone(r.own)
	for _, text := range r.texts {
		all = append(all, "on "+named(r.of[text])+": "+text)
	}
	if over := len(all) - maxRemarks; over > 0 {
		all = append(all[:maxRemarks:maxRemarks], fmt.Sprintf("and %d remarks more", over))
	}
	return all
}

// named names some of many.
func named(ids []string) string {
	text := strings.Join(ids[:min(len(ids), maxNamed)], ", ")
	if n := len(ids) - maxNamed; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}
