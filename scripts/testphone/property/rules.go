package property

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// check applies Android's rules for names and values.
func check(name, value string) error {
	if !legalName(name) {
		return fmt.Errorf("property name %.140q is not legal: %w", name, errdefs.ErrInvalidArgument)
	}
	limit := MaxValue
	if isReadOnly(name) {
		limit = MaxReadOnlyValue
	}
	switch {
	case len(value) > limit:
		return fmt.Errorf("property %s: value of %d bytes is longer than %d: %w", name, len(value), limit, errdefs.ErrInvalidArgument)
	case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
		return fmt.Errorf("property %s: value is not UTF-8 text: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// legalName says whether a name has 1 to MaxName characters of letters, digits and ._-@: and no dot at an end or beside another.
func legalName(name string) bool {
	if name == "" || len(name) > MaxName || name[0] == '.' || name[len(name)-1] == '.' || strings.Contains(name, "..") {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '.', c == '_', c == '-', c == '@', c == ':':
		default:
			return false
		}
	}
	return true
}
