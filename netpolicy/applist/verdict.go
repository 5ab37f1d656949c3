package applist

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/packages"
)

// Verdict is what is denied to an app id.
type Verdict uint32

// The bits of a Verdict. A denied app has both.
const (
	RunDeny Verdict = 1 << 0 // no process takes its uid
	NetDeny Verdict = 1 << 1 // its uid has no network

	denied = RunDeny | NetDeny
)

// Apps is a list as the kernel judges the uids of one phone by it.
type Apps struct {
	// Verdicts has all app ids of apps (packages.FirstApp to LastApp) that the table has: 0 for those that are allowed.
	Verdicts map[uint32]Verdict
	// UnknownDeny is whether app ids of apps are denied that are not in Verdicts.
	UnknownDeny bool
	// IsolatedDeny is whether isolated processes are denied, whose ids tell nothing of their app.
	IsolatedDeny bool

	// Shared are the app ids that are denied for some of their packages and not for others, in the order of the ids.
	Shared []Shared
	// Warnings are what the list denies and the kernel cannot, in the order of the app ids.
	Warnings []Warning
}

// Shared is an app id that several packages have and of which a list denies only some: it is denied to all of them.
type Shared struct {
	AppID uint32
	// Denied are those that the list denies, Others those that it does not; both in their order, none empty.
	Denied, Others []string
}

// String says who is denied because of whom.
func (s Shared) String() string {
	return fmt.Sprintf("%s and %s have one app id, %d: what is denied to %s is denied to all of them",
		strings.Join(s.Denied, ", "), strings.Join(s.Others, ", "), s.AppID, s.Denied[0])
}

// Warning is packages that a list denies and that cannot be told from others which it must not deny: their launch and their network stay
// allowed. Their installation and updates are refused, by name.
type Warning struct {
	// Rule is SystemID or SharedPreinstalled.
	Rule  Rule
	AppID uint32
	// Denied are the packages, Others those of the image that have the same app id; empty for SystemID.
	Denied, Others []string
}

// String says what is enforced and what is not.
func (w Warning) String() string {
	who := "is the system's own"
	if w.Rule == SharedPreinstalled {
		who = fmt.Sprintf("is also that of %s, which came with the image", strings.Join(w.Others, ", "))
	}
	return fmt.Sprintf("%s: the app id %d %s, so the kernel denies installation and updates only, not launch and network", strings.Join(w.Denied, ", "), w.AppID, who)
}

// Verdicts judges the app ids of a phone by a list that Validate has passed. preinstalled are the packages of its image. t is its newest
// complete table; nil before the first of the phone's data, when no app is denied by its id.
//
// The result is what is enforced however Apps.Err is answered: an id is denied if any of its packages is.
func Verdicts(l List, preinstalled map[string]bool, t *packages.Table) Apps {
	a := Apps{Verdicts: make(map[uint32]Verdict), IsolatedDeny: l.Enabled && l.DenyIsolated}
	if t == nil {
		return a
	}
	a.UnknownDeny = l.Enabled && l.Mode == Allow
	for _, id := range t.AppIDs() {
		a.judge(l, preinstalled, id, t.ByAppID(id))
	}
	return a
}

// judge judges an app id, which has these packages.
func (a *Apps) judge(l List, preinstalled map[string]bool, id uint32, of []packages.Package) {
	var deny, others, image []string
	for _, p := range of {
		if l.Denies(p.Name, preinstalled[p.Name]) {
			deny = append(deny, p.Name)
			continue
		}
		others = append(others, p.Name)
		if preinstalled[p.Name] {
			image = append(image, p.Name)
		}
	}
	app := packages.KindOf(id) == packages.App
	keep := l.Mode == Allow && len(image) > 0
	if app {
		a.Verdicts[id] = 0
	}
	switch {
	case len(deny) == 0:
	case !app:
		a.Warnings = append(a.Warnings, Warning{Rule: SystemID, AppID: id, Denied: deny})
	case keep:
		a.Warnings = append(a.Warnings, Warning{Rule: SharedPreinstalled, AppID: id, Denied: deny, Others: image})
	default:
		a.Verdicts[id] = denied
		if len(others) > 0 {
			a.Shared = append(a.Shared, Shared{AppID: id, Denied: deny, Others: others})
		}
	}
}

// Err refuses a list that denies packages which it does not mean to, because they share an app id with one that it does: nil if there is
// none, else errdefs.ErrFailedPrecondition, naming them all. Who accepts that (force) goes on without asking.
func (a Apps) Err() error {
	if len(a.Shared) == 0 {
		return nil
	}
	var all []string
	for _, s := range a.Shared {
		all = append(all, s.String())
	}
	return fmt.Errorf("%s; list them all or none of them, or force it: %w", strings.Join(all, "; "), errdefs.ErrFailedPrecondition)
}

// Judge is the kernel's verdict on a process with a uid, of any Android user.
func (a Apps) Judge(uid uint32) Verdict {
	id := packages.Owner(uid)
	switch packages.KindOf(id) {
	case packages.App:
		v, known := a.Verdicts[id]
		if !known && a.UnknownDeny {
			return denied
		}
		return v
	case packages.Isolated:
		if a.IsolatedDeny {
			return denied
		}
	}
	return 0
}

// Unknown is whether a uid is that of an app that the table does not have. Where one runs, under Deny, the list has not been applied to it
// yet: it is reported, and judged when there is a table that has it.
func (a Apps) Unknown(uid uint32) bool {
	id := packages.Owner(uid)
	_, known := a.Verdicts[id]
	return packages.KindOf(id) == packages.App && !known
}
