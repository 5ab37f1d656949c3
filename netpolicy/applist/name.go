package applist

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// MaxName is how many bytes the name of a package may have, and what stands before the '*' of a pattern: Android's installer takes no longer ones
// (FrameworkParsingPackageUtils.MAX_FILE_NAME_SIZE).
const MaxName = 223

// framework is the one package whose name has a single part: Android's own.
const framework = "android"

// CheckPackage tells what is wrong with the name of a package, by the rule that Android's tools set for one: at least two parts with a dot
// between them, each of letters, digits and '_', and beginning with a letter. The installer alone
// (FrameworkParsingPackageUtils.validateName) takes empty parts too, as in com..example; no tool builds such an app, so they are taken for slips
// here, and patterns stand for them as for others. The error is of class errdefs.ErrInvalidArgument.
func CheckPackage(name string) error {
	if name == framework {
		return nil
	}
	if err := checkParts(name); err != nil {
		return err
	}
	if !strings.Contains(name, ".") {
		return wrong(name, "has one part; the name of a package has at least two, as com.example")
	}
	return nil
}

// CheckEntry tells what is wrong with an entry of a list: the name of a package, or such a name, or only its first part, and ".*". The
// error is of class errdefs.ErrInvalidArgument.
func CheckEntry(entry string) error {
	if below, ok := pattern(entry); ok {
		return checkParts(strings.TrimSuffix(below, "."))
	}
	switch rest, isPackage := strings.CutPrefix(entry, "package:"); {
	case entry == "":
		return wrong(entry, "is no name; want one as com.example.app, or a pattern as com.example.*")
	case entry == "*":
		return wrong(entry, "would stand for every package; an allow list without packages denies all apps, and a list that is disabled none")
	case isPackage && CheckEntry(rest) == nil:
		return wrong(entry, "want the name alone, %s", rest)
	case strings.HasSuffix(entry, "*") && checkParts(strings.TrimRight(entry, ".*")) == nil:
		return wrong(entry, "a pattern ends in a dot and one '*', as %s.*", strings.TrimRight(entry, ".*"))
	case strings.Contains(entry, "*"):
		return wrong(entry, "'*' stands at the end of a pattern, behind a dot, and nowhere else, as com.example.*")
	case strings.HasSuffix(entry, ".") && checkParts(strings.TrimRight(entry, ".")) == nil:
		name := strings.TrimRight(entry, ".")
		return wrong(entry, "ends in a dot; want %s, or %s.* for all that begin so", name, name)
	}
	return CheckPackage(entry)
}

// pattern returns what the names begin with that a pattern stands for: "com.example." for "com.example.*".
func pattern(entry string) (below string, ok bool) {
	below, ok = strings.CutSuffix(entry, "*")
	return below, ok && len(below) > 1 && strings.HasSuffix(below, ".")
}

// checkParts checks a name, which may have one part only.
func checkParts(name string) error {
	if len(name) > MaxName {
		return wrong(name, "has %d characters; Android takes names of at most %d", len(name), MaxName)
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" {
			return wrong(name, "has an empty part; the parts of a name stand between single dots, as com.example.app")
		}
		if i := strings.IndexFunc(part, func(r rune) bool { return !inName(r) }); i >= 0 {
			r, _ := utf8.DecodeRuneInString(part[i:])
			return wrong(name, "%q is in no package's name; a-z, A-Z, 0-9, '_' and '.' are", r)
		}
		if !isLetter(rune(part[0])) {
			return wrong(name, "the part %q begins with %q; parts of a package's name begin with a letter", clip(part), part[0])
		}
	}
	return nil
}

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

func inName(r rune) bool { return isLetter(r) || r >= '0' && r <= '9' || r == '_' }

// wrong is the error for an entry or a name.
func wrong(name, format string, args ...any) error {
	return fmt.Errorf("%q: %s: %w", clip(name), fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// Validate tells what is wrong with a list, and what would be right: of its name, its mode, its description, or the first entry that is wrong, counted
// from 1. The error is of class errdefs.ErrInvalidArgument.
func (l List) Validate() error {
	if err := checkListName(l.Name); err != nil {
		return err
	}
	if l.Mode != Deny && l.Mode != Allow {
		return fmt.Errorf("%v: want %d (deny) or %d (allow): %w", l.Mode, Deny, Allow, errdefs.ErrInvalidArgument)
	}
	if n := utf8.RuneCountInString(l.Description); n > MaxDescription {
		return fmt.Errorf("the description has %d characters; want at most %d: %w", n, MaxDescription, errdefs.ErrInvalidArgument)
	}
	if r, bad := unprintable(l.Description); bad {
		return fmt.Errorf("the description has a %q; want printable characters: %w", r, errdefs.ErrInvalidArgument)
	}
	return checkPackages(l.Packages)
}

// checkPackages checks the entries of a list.
func checkPackages(entries []string) error {
	if n := len(entries); n > MaxPackages {
		return fmt.Errorf("%d packages: a list has at most %d; a pattern as com.example.* stands for many: %w", n, MaxPackages, errdefs.ErrInvalidArgument)
	}
	for i, e := range entries {
		if err := CheckEntry(e); err != nil {
			return fmt.Errorf("package %d, %w", i+1, err)
		}
		if first := slices.Index(entries, e); first < i {
			return fmt.Errorf("package %d, %q: is package %d already; leave one of them out: %w", i+1, e, first+1, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func checkListName(name string) error {
	n := utf8.RuneCountInString(name)
	switch r, bad := unprintable(name); {
	case n == 0 || n > MaxListName:
		return fmt.Errorf("the name %q has %d characters; want 1..%d: %w", clip(name), n, MaxListName, errdefs.ErrInvalidArgument)
	case bad:
		return fmt.Errorf("the name %q has a %q; want printable characters: %w", clip(name), r, errdefs.ErrInvalidArgument)
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("the name %q has blanks around it; want %q: %w", clip(name), clip(strings.TrimSpace(name)), errdefs.ErrInvalidArgument)
	case name[0] == '-':
		return fmt.Errorf("the name %q begins with '-', as options of commands do; want another first character: %w", clip(name), errdefs.ErrInvalidArgument)
	}
	return nil
}

// unprintable finds a character that does not belong in a line of text.
func unprintable(text string) (rune, bool) {
	for i, r := range text {
		if _, size := utf8.DecodeRuneInString(text[i:]); !unicode.IsPrint(r) || r == utf8.RuneError && size == 1 {
			return r, true
		}
	}
	return 0, false
}

// clip is a word as an error shows it: not all of it if it is very long.
func clip(word string) string {
	const most = 100
	if len(word) <= most {
		return word
	}
	return word[:most] + "..."
}
