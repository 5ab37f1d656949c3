package appguard_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// say tells a process something and returns what it answers.
func (d dialogue) say(t *testing.T, text any) string {
	t.Helper()
	if _, err := fmt.Fprintln(d.in, text); err != nil {
		t.Fatal(err)
	}
	return d.line(t)
}

// specialised is what a child of the pool meets that becomes an app, under rules.
type specialised struct {
	uid uint32
	met string
	// runs says that the child may become the app: else it is killed where launches are refused, and meets met elsewhere.
	runs bool
}

// testPool has children that were forked before any rules changed become apps, each under the rules of its time: also under those of an app id that is
// given to another package.
func testPool(t *testing.T, g *appguard.Guard) {
	const user = 10 * 100000
	const isolated, offline = 99001, "connect:EPERM"
	p := makePhone(t, "p1")
	rounds := []struct {
		name  string
		rules appguard.Phone
		all   []specialised
	}{
		{"all may", appguard.Phone{}, []specialised{{appOffline, "done", true}, {appDenied, "done", true}, {isolated, "done", true}}},
		{"one may not have a network", appguard.Phone{Apps: apps}, []specialised{
			{appOffline, offline, true}, {user + appOffline, offline, true}, {10000 + appOffline, offline, true}, {user + 10000 + appOffline, offline, true},
			{appAllowed, "done", true}, {10000 + appAllowed, "done", true}, {isolated, "done", true}, {user + isolated, "done", true}, {appUnknown, "done", true},
		}},
		{"one may not run", appguard.Phone{Apps: map[uint32]appguard.Bits{appDenied: appguard.DenyRun}}, []specialised{
			{appDenied, "done", false}, {user + appDenied, "done", false}, {10000 + appDenied, "done", false}, {appOffline, "done", true},
		}},
		{"what is unknown", appguard.Phone{Apps: apps, UnknownDeny: true}, []specialised{
			{appUnknown, offline, false}, {10000 + appUnknown, offline, false}, {appAllowed, "done", true}, {isolated, "done", true}, {appOffline, offline, true},
		}},
		{"isolated processes", appguard.Phone{Apps: apps, IsolatedDeny: true}, []specialised{
			{isolated, offline, false}, {user + isolated, offline, false}, {90000, offline, false}, {appUnknown, "done", true}, {10000 + appAllowed, "done", true}, {30000, "done", true},
		}},
		// The app id of a package that may not is another's, which may; and back.
		{"uninstalled", appguard.Phone{Apps: map[uint32]appguard.Bits{appAllowed: 0}}, []specialised{{appOffline, "done", true}}},
		{"uninstalled, under a list that allows", appguard.Phone{Apps: map[uint32]appguard.Bits{appAllowed: 0}, UnknownDeny: true}, []specialised{{appOffline, offline, false}, {appAllowed, "done", true}}},
		{"another package's", appguard.Phone{Apps: map[uint32]appguard.Bits{appAllowed: appguard.DenyNetwork, appOffline: 0}, UnknownDeny: true}, []specialised{
			{appOffline, "done", true}, {user + appOffline, "done", true}, {10000 + appOffline, "done", true}, {appAllowed, offline, true},
		}},
		{"again the first one's", appguard.Phone{Apps: apps}, []specialised{{appOffline, offline, true}, {appAllowed, "done", true}}},
	}
	count := 0
	for _, round := range rounds {
		count += len(round.all)
	}
	pool := p.begin(t, fmt.Sprint("pool ", count))
	if met := pool.line(t); met != "done" {
		t.Fatal(met)
	}
	drain(t, g, 0)
	for _, round := range rounds {
		p.set(t, g, round.rules)
		var want []string
		for _, child := range round.all {
			met := child.met
			if !child.runs && g.Status().Shown.Launch {
				met = killed
			}
			if got := pool.say(t, child.uid); got != met {
				t.Errorf("%s: a child that becomes %d meets %s; want %s", round.name, child.uid, got, met)
			}
			switch met {
			case killed:
				want = append(want, fmt.Sprintf("launch %d %q 1", child.uid, ""))
			case offline:
				want = append(want, fmt.Sprintf("network %d %q 1", child.uid, ""))
			}
		}
		slices.Sort(want)
		got := counts(drain(t, g, 0))
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: denials are %s; want %s", round.name, strings.Join(got, ", "), strings.Join(want, ", "))
		}
	}
}

func TestPool(t *testing.T) { testPool(t, open(t)) }

// Isolated processes that are there when they are denied have no network any more, nor do sockets that they are given.
func TestNetworkOfIsolated(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	allow, deny := appguard.Phone{Apps: apps}, appguard.Phone{Apps: apps, IsolatedDeny: true}
	p.set(t, g, allow)
	d := p.begin(t, "setresuid 99001 99001 99001", "talk tcp "+echo(t))
	for _, each := range []struct {
		rules       appguard.Phone
		talk, given string
	}{{allow, "done", "done"}, {deny, "silence", "EPERM"}, {allow, "done", "done"}} {
		p.set(t, g, each.rules)
		if met := d.ask(t); met != each.talk {
			t.Errorf("with %+v a connection meets %s; want %s", each.rules, met, each.talk)
		}
		for _, uid := range []uint32{90000, 99001, 1099999} {
			for _, step := range []string{fmt.Sprintf("raw %d", uid), fmt.Sprintf("given %d %d 4 9", appAllowed, uid)} {
				if met := p.guest(t, step); !slices.Equal(met, []string{each.given}) {
					t.Errorf("with %+v %s meets %v; want %s", each.rules, step, met, each.given)
				}
			}
		}
	}
}
