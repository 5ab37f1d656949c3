package applist

import (
	"fmt"
	"slices"
	"strings"

	"github.com/phonehost/phonehost/netpolicy/packages"
)

// Phone is what answers depend on besides the list.
type Phone struct {
	// Preinstalled are the packages that came with its image.
	Preinstalled map[string]bool
	// Table is its newest complete table of packages; nil before the first of its data.
	Table *packages.Table
}

// Answer is what would happen, and why.
type Answer struct {
	Deny bool
	Rule Rule
	// Why is a sentence without a full stop.
	Why string
}

// Explanation is what a list means for one package of one phone, by what the kernel's programs are told. It does not say whether the host's
// kernel is able to enforce it.
type Explanation struct {
	Package string
	// Preinstalled is whether the package came with the image, Installed whether the phone's table has it, AppID its app id there, and
	// Sharing the other packages that have the same.
	Preinstalled, Installed bool
	AppID                   uint32
	Sharing                 []string
	// Entry is the list's entry that stands for the package, or empty.
	Entry string
	// Install is an installation or an update, Launch a start of one of its processes, Network any use of the network by them.
	Install, Launch, Network Answer
}

// Explain says what a list, nil for none, means for a package. The list is one that Validate has passed.
func Explain(l *List, p Phone, pkg string) Explanation {
	if l == nil {
		l = &List{}
	}
	e := Explanation{Package: pkg, Preinstalled: p.Preinstalled[pkg]}
	d := l.Decide(pkg, e.Preinstalled)
	e.Entry = d.Entry
	e.Install = Answer{Deny: d.Deny, Rule: d.Rule, Why: l.reason(d)}
	if p.Table != nil {
		var own packages.Package
		if own, e.Installed = p.Table.ByName(pkg); e.Installed {
			e.AppID = own.AppID
			for _, other := range p.Table.ByAppID(own.AppID) {
				if other.Name != pkg {
					e.Sharing = append(e.Sharing, other.Name)
				}
			}
		}
	}
	run := l.explainID(e, d, p)
	e.Launch, e.Network = run, run
	return e
}

// reason says what decides about a name.
func (l List) reason(d Decision) string {
	switch d.Rule {
	case Listed:
		return fmt.Sprintf("the %v list %q has %s", l.Mode, l.Name, d.Entry)
	case Unlisted:
		return fmt.Sprintf("no entry of the %v list %q stands for it", l.Mode, l.Name)
	case Preinstalled:
		return fmt.Sprintf("it came with the phone's image, which the allow list %q does not restrict", l.Name)
	}
	if l.Name != "" {
		return fmt.Sprintf("the list %q is disabled", l.Name)
	}
	return "the phone is on no list"
}

// explainID says what decides about the uid of a package, given what its name says.
func (l List) explainID(e Explanation, d Decision, p Phone) Answer {
	byName := Answer{Deny: d.Deny, Rule: d.Rule, Why: l.reason(d)}
	switch {
	case d.Rule == Unrestricted:
		return byName
	case p.Table == nil:
		return Answer{Rule: NoTable, Why: fmt.Sprintf("no list of the phone's packages has been read since it got its data, and till then no app is told from another; after that it is %s: %s",
			word(d.Deny), byName.Why)}
	case !e.Installed:
		return Answer{Deny: d.Deny, Rule: NotInstalled, Why: "it is not in the phone's list of packages, " + l.absent(d) + ": " + byName.Why}
	}
	a := Verdicts(l, p.Preinstalled, p.Table)
	deny := a.Judge(e.AppID) != 0
	switch {
	case deny == d.Deny:
		return byName
	case deny:
		i := slices.IndexFunc(a.Shared, func(s Shared) bool { return s.AppID == e.AppID })
		return Answer{Deny: true, Rule: SharedDenied, Why: fmt.Sprintf("it shares the app id %d with %s, which the list denies", e.AppID, strings.Join(a.Shared[i].Denied, ", "))}
	}
	i := slices.IndexFunc(a.Warnings, func(w Warning) bool { return w.AppID == e.AppID })
	w := a.Warnings[i]
	if w.Rule == SystemID {
		return Answer{Rule: SystemID, Why: fmt.Sprintf("its app id, %d, is the system's own and is not denied, though %s", e.AppID, byName.Why)}
	}
	return Answer{Rule: SharedPreinstalled, Why: fmt.Sprintf("it shares the app id %d with %s, which came with the image and is not denied, though %s",
		e.AppID, strings.Join(w.Others, ", "), byName.Why)}
}

// absent says how a package is judged that the phone's table does not have.
func (l List) absent(d Decision) string {
	switch {
	case l.Mode == Allow && d.Deny:
		return "and is denied then and now"
	case l.Mode == Deny && !d.Deny:
		return "and is allowed then and now"
	}
	return "and is " + word(d.Deny) + " as soon as it is"
}

func word(deny bool) string {
	if deny {
		return "denied"
	}
	return "allowed"
}
