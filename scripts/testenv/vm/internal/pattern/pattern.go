// Package pattern takes the patterns of -test.run and -test.skip apart, so that a test process elsewhere runs those of the tests
// below one test that were asked for here.
package pattern

import (
	"fmt"
	"regexp"
	"strings"
)

// Below returns the parts of a pattern that tell among the tests below the one called name. all is true when the pattern, as far
// as name goes, lets all of them through; rest is nil and all false when it lets none.
//
// A pattern is alternatives separated by "|", each of elements separated by "/", as `go help testflag` has it; an empty pattern
// matches everything.
func Below(pattern, name string) (rest []string, all bool, err error) {
	names := strings.Split(name, "/")
	for _, alternative := range split(pattern) {
		matched := true
		for i, element := range alternative {
			if i >= len(names) {
				break
			}
			ok, err := regexp.MatchString(element, names[i])
			if err != nil {
				return nil, false, fmt.Errorf("element %d of the test pattern %q: %w", i, pattern, err)
			}
			matched = matched && ok
		}
		switch {
		case !matched:
		case len(alternative) <= len(names):
			all = true
		default:
			rest = append(rest, strings.Join(alternative[len(names):], "/"))
		}
	}
	return rest, all, nil
}

// Exactly returns a pattern that matches the test called name, and of the tests below it those that rest matches; all of them if rest
// is empty.
func Exactly(name string, rest []string) string {
	names := strings.Split(name, "/")
	for i, n := range names {
		names[i] = "^" + regexp.QuoteMeta(n) + "$"
	}
	exact := strings.Join(names, "/")
	if len(rest) == 0 {
		return exact
	}
	alternatives := make([]string, len(rest))
	for i, r := range rest {
		alternatives[i] = exact + "/" + r
	}
	return strings.Join(alternatives, "|")
}

// split takes a pattern apart: at "|" and "/" outside of brackets and parentheses, with the spaces of elements as names have them.
func split(pattern string) [][]string {
	var alternatives [][]string
	var elements []string
	start, brackets, parens := 0, 0, 0
	cut := func(end int) {
		elements = append(elements, strings.ReplaceAll(pattern[start:end], " ", "_"))
		start = end + 1
	}
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '[':
			brackets++
		case c == ']':
			brackets = max(brackets-1, 0)
		case c == '(' && brackets == 0:
			parens++
		case c == ')' && brackets == 0:
			parens--
		case c == '\\':
			i++
		case c == '/' && brackets == 0 && parens == 0:
			cut(i)
		case c == '|' && brackets == 0 && parens == 0:
			cut(i)
			alternatives, elements = append(alternatives, elements), nil
		}
	}
	cut(len(pattern))
	return append(alternatives, elements)
}
