package applist

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// MaxPackages is how many entries a list may have.
	MaxPackages = 500
	// MaxListName and MaxDescription are how many characters a list's name and its description may have.
	MaxListName    = 64
	MaxDescription = 255
)

// Mode is what a list does to the packages that it names.
type Mode uint8

// The modes; the zero value is none.
const (
	// Deny denies them, and allows all others.
	Deny Mode = 1
	// Allow allows them and what came with the image, and denies all others.
	Allow Mode = 2
)

// String is the word for a mode, which ParseMode reads: deny, allow.
func (m Mode) String() string {
	switch m {
	case Deny:
		return "deny"
	case Allow:
		return "allow"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// ParseMode reads deny or allow; else errdefs.ErrInvalidArgument.
func ParseMode(word string) (Mode, error) {
	for _, m := range []Mode{Deny, Allow} {
		if word == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("mode %q: want deny or allow: %w", clip(word), errdefs.ErrInvalidArgument)
}

// List is a list of apps.
type List struct {
	// Name is 1..MaxListName printable characters, without blanks around them and not beginning with '-'.
	Name string
	Mode Mode
	// Description is at most MaxDescription printable characters.
	Description string
	// Packages are the entries, 0..MaxPackages of them, each once, in any order (CheckEntry).
	Packages []string
	// Enabled is whether the list is in force. One that is not says nothing: everything is allowed.
	Enabled bool
	// Strict is whether the list may only be in force where the kernel keeps all of it. That is for who enforces it; nothing here depends on it.
	Strict bool
	// DenyIsolated is whether isolated processes are denied, whose ids do not tell of which app they are: renderers of web pages, and services that
	// run so (android:isolatedProcess).
	DenyIsolated bool
}

// Rule is what decides about a package.
type Rule uint8

// The rules. The first five are Decide's, the others come of how packages are told apart, and are Explain's.
const (
	// Unrestricted: no list is in force.
	Unrestricted Rule = iota
	// Listed: an entry stands for the package.
	Listed
	// Unlisted: no entry does.
	Unlisted
	// Preinstalled: no entry of an Allow list does, and the package came with the image.
	Preinstalled
	// SystemID: its app id is one of the system's, which are not denied.
	SystemID
	// SharedDenied: another package that has the same app id is denied.
	SharedDenied
	// SharedPreinstalled: it is denied by an Allow list, and shares its app id with a package of the image, which is not.
	SharedPreinstalled
	// NotInstalled: the phone's table does not have it, so it has no app id that is known.
	NotInstalled
	// NoTable: no complete list of the phone's packages has been read yet.
	NoTable
)

// String is the rule's name.
func (r Rule) String() string {
	if int(r) < len(rules) {
		return rules[r]
	}
	return fmt.Sprintf("rule %d", uint8(r))
}

var rules = []string{
	Unrestricted: "unrestricted", Listed: "listed", Unlisted: "unlisted", Preinstalled: "preinstalled", SystemID: "system-id",
	SharedDenied: "shared-denied", SharedPreinstalled: "shared-preinstalled", NotInstalled: "not-installed", NoTable: "no-table",
}

// Decision is what a list says of a package.
type Decision struct {
	Deny bool
	// Rule is Unrestricted, Listed, Unlisted or Preinstalled.
	Rule Rule
	// Entry is the entry that stands for the package, the most precise of them; empty but for Listed.
	Entry string
}

// Decide is what a list says of a package, of which preinstalled tells whether it came with the phone's image.
func (l List) Decide(pkg string, preinstalled bool) Decision {
	if !l.Enabled {
		return Decision{Rule: Unrestricted}
	}
	if entry, found := l.entry(pkg); found {
		return Decision{Deny: l.Mode == Deny, Rule: Listed, Entry: entry}
	}
	if l.Mode == Allow && preinstalled {
		return Decision{Rule: Preinstalled}
	}
	return Decision{Deny: l.Mode == Allow, Rule: Unlisted}
}

// Denies is whether Decide denies.
func (l List) Denies(pkg string, preinstalled bool) bool { return l.Decide(pkg, preinstalled).Deny }

// entry finds the entry that stands for a package: its name, or else the longest pattern.
func (l List) entry(pkg string) (string, bool) {
	best, found := "", false
	for _, e := range l.Packages {
		if e == pkg {
			return e, true
		}
		if below, ok := pattern(e); ok && strings.HasPrefix(pkg, below) && len(e) > len(best) {
			best, found = e, true
		}
	}
	return best, found
}

// Remarks are what whoever makes or changes a list should be told of it, though nothing is wrong.
func (l List) Remarks() []string {
	var all []string
	if l.Mode == Allow && len(l.Packages) == 0 {
		all = append(all, "an allow list without packages allows no app but those that came with the image")
	}
	if l.Mode == Deny && len(l.Packages) == 0 {
		all = append(all, "a deny list without packages denies nothing")
	}
	if l.DenyIsolated {
		all = append(all, "isolated processes are denied to all apps: they show no web pages (WebView)")
	}
	for _, e := range l.Packages {
		if by, ok := l.covered(e); ok {
			all = append(all, fmt.Sprintf("%s changes nothing: %s stands for it already", e, by))
		}
	}
	return all
}

// covered finds a pattern that stands for all that another entry stands for.
func (l List) covered(entry string) (string, bool) {
	for _, e := range l.Packages {
		if below, ok := pattern(e); ok && e != entry && strings.HasPrefix(entry, below) {
			return e, true
		}
	}
	return "", false
}
