package wire

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var ifindex = regexp.MustCompile(`(?m)^\d+: |@if\d+|link-netns\S* \S+`)

// snapshot is all that a phone's link has, on both ends, as iproute2 tells it, without what differs from one pair to the next.
func (l lab) snapshot(t testing.TB, p Phone) []string {
	t.Helper()
	name := LinkName(p.ID)
	host := run(t, "sh", "-c", "ip -o link show "+name+"; ip -o addr show dev "+name+"; ip -4 route show table all dev "+name+
		"; ip -6 route show table all dev "+name+"; ip neigh show nud permanent dev "+name)
	for _, s := range l.hostSettings(name) {
		value, err := readSetting(s.path)
		if err != nil && !s.optional {
			t.Error(err)
		}
		host += s.path + "=" + value + "\n"
	}
	guest := l.guest(p.ID).Run(t, "sh", "-c", "ip -o link; ip -o addr; ip -4 route show table all; ip -6 route show table all; ip neigh show nud permanent")
	lines := strings.Split(ifindex.ReplaceAllString("HOST\n"+host+"GUEST\n"+guest, ""), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	slices.Sort(lines)
	return lines
}

// until is how long the kernel has for what it does by and by: the routes of IPv6 addresses to this host come from a work queue.
const until = 5 * time.Second

// settled returns a snapshot of a phone's link with all that the kernel adds to it.
func (l lab) settled(t testing.TB, p Phone) []string {
	t.Helper()
	guest, _ := MACs(p.ID)
	for start := time.Now(); ; {
		s := l.snapshot(t, p)
		text := strings.Join(s, "\n")
		missing := slices.DeleteFunc([]string{
			"local " + Gateway(pool6).String() + " table", "local fe80::1 table", "local " + p.IPv6.String() + " dev", "local " + linkLocal(guest).String() + " dev",
		}, func(line string) bool { return strings.Contains(text, line) })
		if len(missing) == 0 && strings.Contains(text, "anycast fe80::") {
			return s
		}
		if time.Since(start) > until {
			t.Fatalf("the link is never finished, %q are missing:\n%s", missing, text)
		}
	}
}

// same fails the test when the phone's link does not become what it was.
func (l lab) same(t testing.TB, p Phone, want []string, after string) {
	t.Helper()
	diff := cmp.Diff(want, l.snapshot(t, p))
	for start := time.Now(); diff != "" && time.Since(start) < until; {
		diff = cmp.Diff(want, l.snapshot(t, p))
	}
	if diff != "" {
		t.Errorf("after %s the link is another (-was +is):\n%s", after, diff)
	}
}

// nothing fails the test when anything on the host is left of a phone.
func (l lab) nothing(t testing.TB, p Phone, after string) {
	t.Helper()
	text := run(t, "sh", "-c", "ip -o link; ip -o addr; ip -4 route show table all; ip -6 route show table all; ip neigh show; ls /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf")
	for _, trace := range []string{LinkName(p.ID), p.IPv4.String() + " ", p.IPv6.String() + " "} {
		if strings.Contains(text, trace) {
			t.Errorf("after %s there is %q left:\n%s", after, trace, text)
		}
	}
}
