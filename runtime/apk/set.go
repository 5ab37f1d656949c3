package apk

import (
	"slices"
	"strings"
)

// CheckSet checks that APKs may be installed together: exactly one is a base, no split comes twice, all have the package, version and
// certificates of the base, and the splits that the base cannot do without are there. The order does not matter. It checks what the
// guest's package manager would refuse only after all was sent. Error: errdefs.ErrInvalidArgument, which names the first that does not fit.
func CheckSet(apks []*Info) error {
	base, err := findBase(apks)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, a := range apks {
		switch {
		case a.Package != base.Package:
			return invalid("%s is of package %s, the base of %s: install them one after the other", nameOf(a), a.Package, base.Package)
		case a.VersionCode != base.VersionCode:
			return invalid("%s has version code %d, the base %d: all must be of one build", nameOf(a), a.VersionCode, base.VersionCode)
		case !slices.Equal(a.Certificates(), base.Certificates()):
			return invalid("%s is signed by %s, the base by %s: sign all with one key", nameOf(a), digests(a), digests(base))
		case seen[a.Split]:
			return invalid("%s is given twice", nameOf(a))
		}
		seen[a.Split] = true
	}
	return checkRequired(base, apks)
}

func findBase(apks []*Info) (*Info, error) {
	var base *Info
	for _, a := range apks {
		switch {
		case !a.Base():
		case base == nil:
			base = a
		case base.Package != a.Package:
			return nil, invalid("two base APKs are given, of %s and %s: install them one after the other", base.Package, a.Package)
		default:
			return nil, invalid("two base APKs of %s are given, and a set has one", a.Package)
		}
	}
	switch {
	case len(apks) == 0:
		return nil, invalid("no APK is given")
	case base == nil:
		return nil, invalid("only splits of %s are given: the base APK is missing", apks[0].Package)
	}
	return base, nil
}

// checkRequired checks what Android does: a base that requires splits has some, and every required type of split is there.
func checkRequired(base *Info, apks []*Info) error {
	if base.RequiresSplits && len(apks) == 1 {
		return invalid("the base APK of %s does not work alone: give its splits too", base.Package)
	}
	var there []string
	for _, a := range apks {
		there = append(there, a.SplitTypes...)
	}
	for _, a := range apks {
		for _, required := range a.RequiredSplitTypes {
			if !slices.Contains(there, required) {
				return invalid("%s requires a split of type %.100q, which is missing", nameOf(a), required)
			}
		}
	}
	return nil
}

func nameOf(a *Info) string {
	if a.Base() {
		return "the base APK"
	}
	return "split " + a.Split
}

func digests(a *Info) string {
	var list []string
	for _, d := range a.Certificates() {
		list = append(list, d.String()[:16])
	}
	if len(list) == 0 {
		return "nobody"
	}
	return strings.Join(list, " and ")
}
