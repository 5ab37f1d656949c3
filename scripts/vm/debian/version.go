package debian

import "strings"

// CompareVersions orders versions of packages as dpkg does (deb-version(7)): below 0 if a is older than b, above 0 if it is newer.
func CompareVersions(a, b string) int {
	ae, au, ar := splitVersion(a)
	be, bu, br := splitVersion(b)
	for _, pair := range [][2]string{{ae, be}, {au, bu}, {ar, br}} {
		if c := comparePart(pair[0], pair[1]); c != 0 {
			return c
		}
	}
	return 0
}

func splitVersion(v string) (epoch, upstream, revision string) {
	if before, after, ok := strings.Cut(v, ":"); ok {
		epoch, v = before, after
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// comparePart compares alternately what is no digit, character by character, and what is, as numbers.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !digit(a[0])) || (b != "" && !digit(b[0])) {
			if c := order(a) - order(b); c != 0 {
				return c
			}
			a, b = rest(a), rest(b)
		}
		var x, y string
		x, a = number(a)
		y, b = number(b)
		if c := len(x) - len(y); c != 0 {
			return c
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// order of a first character: "~" before the end, the end and digits before letters, letters before the rest.
func order(s string) int {
	switch {
	case s == "" || digit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'A' && s[0] <= 'Z' || s[0] >= 'a' && s[0] <= 'z':
		return int(s[0])
	}
	return int(s[0]) + 256
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func rest(s string) string {
	if s == "" || digit(s[0]) {
		return s
	}
	return s[1:]
}

// number cuts the digits off the front of s, without the zeros that mean nothing.
func number(s string) (digits, after string) {
	i := 0
	for i < len(s) && digit(s[i]) {
		i++
	}
	return strings.TrimLeft(s[:i], "0"), s[i:]
}
