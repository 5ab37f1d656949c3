package applist

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// ParsePackages reads the entries of a list from text: one a line, in the order of the lines. A # begins a comment, empty lines say
// nothing, blanks around an entry are left out, as are a byte order mark before the first line and the carriage returns of other systems. Errors name
// the line, from 1, what is wrong with it and what would be right; they are of class errdefs.ErrInvalidArgument.
func ParsePackages(text []byte) ([]string, error) {
	var entries []string
	lines := make(map[string]int)
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
		number++
		line, _, _ = strings.Cut(line, "#")
		entry := strings.TrimSpace(line)
		if entry == "" {
			continue
		}
		if words := strings.Fields(entry); len(words) > 1 {
			return nil, fmt.Errorf("line %d: %q: has %d words; want one package a line: %w", number, clip(entry), len(words), errdefs.ErrInvalidArgument)
		}
		if err := CheckEntry(entry); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if first, found := lines[entry]; found {
			return nil, fmt.Errorf("line %d: %q: stands in line %d already; leave one of them out: %w", number, entry, first, errdefs.ErrInvalidArgument)
		}
		if len(entries) == MaxPackages {
			return nil, fmt.Errorf("line %d: a list has at most %d packages, and here is one more: %w", number, MaxPackages, errdefs.ErrInvalidArgument)
		}
		lines[entry] = number
		entries = append(entries, entry)
	}
	return entries, nil
}

// FormatPackages is the text of a list's entries, which ParsePackages reads.
func FormatPackages(entries []string) []byte {
	var text strings.Builder
	for _, e := range entries {
		text.WriteString(e + "\n")
	}
	return []byte(text.String())
}
