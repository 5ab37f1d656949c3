package appguard_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// nothing fails the test if maps hold anything of phones.
func nothing(t testing.TB, g *appguard.Guard) {
	t.Helper()
	have, err := g.Elements()
	if err != nil || len(have) > 0 {
		t.Errorf("the maps still hold %v elements, %v", have, err)
	}
	if phones := g.Phones(); len(phones) > 0 {
		t.Errorf("phones are still %v", phones)
	}
}

func TestSetPhoneRefuses(t *testing.T) {
	g := open(t)
	for _, test := range []struct {
		cgroup uint64
		rules  appguard.Phone
		says   string
	}{
		{0, appguard.Phone{}, "no cgroup"}, {7, appguard.Phone{Slot: 128}, "below 128"}, {7, appguard.Phone{Slot: 1000}, "below 128"},
		{7, appguard.Phone{Names: []appguard.Name{{}}}, "1 to 255 bytes"}, {7, appguard.Phone{Names: []appguard.Name{{Name: strings.Repeat("x", 256)}}}, "1 to 255"},
		{7, appguard.Phone{Names: []appguard.Name{{Name: "a\x00b"}}}, "no zero"}, {7, appguard.Phone{Names: []appguard.Name{{Name: "a"}, {Name: "b"}, {Name: "a", Deny: true}}}, "twice"},
		{7, appguard.Phone{Apps: map[uint32]appguard.Bits{20000: 0}}, "app id 20000"}, {7, appguard.Phone{Apps: map[uint32]appguard.Bits{10000: 4}}, "0x4"},
		{7, appguard.Phone{Names: make([]appguard.Name, 1<<16+1)}, "at most 65536"},
	} {
		err := g.SetPhone(test.cgroup, test.rules)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%+v: %v; want an error with %q", test.rules.Slot, err, test.says)
		}
	}
	nothing(t, g)
	if err := g.SetPhone(7, appguard.Phone{Slot: 1}); err != nil {
		t.Fatal(err)
	}
	if err := g.SetPhone(7, appguard.Phone{Slot: 2}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a cgroup in two slots: %v", err)
	}
	for _, cgroup := range []uint64{8, 7, 7} {
		if err := g.RemovePhone(cgroup); err != nil {
			t.Error(err)
		}
	}
	nothing(t, g)
}

// The longest name that a package matches decides, an exact one before a pattern.
func TestNames(t *testing.T) {
	g := open(t)
	if err := g.SetPhone(7, appguard.Phone{Names: denyNames}); err != nil {
		t.Fatal(err)
	}
	if err := g.SetPhone(8, appguard.Phone{Slot: 1, Names: allowNames, UnlistedDeny: true}); err != nil {
		t.Fatal(err)
	}
	for slot, cases := range [][]installCase{denyCases, allowCases} {
		for _, c := range cases {
			if !strings.HasPrefix(c.to, "app/~~r/") {
				continue
			}
			pkg := c.pkg()
			if strings.Contains(pkg, `\`) {
				continue // written in Go's way
			}
			if denied, _, err := g.Denies(uint32(slot), pkg); denied != c.refused || err != nil {
				t.Errorf("slot %d: %q is denied: %v, %v; want %v", slot, pkg, denied, err, c.refused)
			}
		}
	}
}

// Phones with the same names share one trie, in whatever order they are told, also after the agent's end; it goes with the last of them.
func TestNamesAreShared(t *testing.T) {
	g := open(t)
	backwards := slices.Clone(denyNames)
	slices.Reverse(backwards)
	for slot := range uint32(10) {
		names := denyNames
		if slot%2 == 1 {
			names = backwards
		}
		if err := g.SetPhone(uint64(100+slot), appguard.Phone{Slot: slot, Names: names, Apps: map[uint32]appguard.Bits{10000 + slot: 0}}); err != nil {
			t.Fatal(err)
		}
	}
	shared := func(g *appguard.Guard, tries, phones int) {
		t.Helper()
		have, err := g.Elements()
		if diff := cmp.Diff(map[string]int{"names": tries, "uids": phones, "denials": phones, "phones": phones, "states": phones}, have); diff != "" || err != nil {
			t.Errorf("elements, %v (-want +got):\n%s", err, diff)
		}
	}
	shared(g, 1, 10)
	g.Close()
	g = reopen(t)
	shared(g, 1, 10)
	if err := g.SetPhone(200, appguard.Phone{Slot: 10, Names: denyNames}); err != nil {
		t.Fatal(err)
	}
	shared(g, 1, 11)
	if g.TrieOf(10) != g.TrieOf(3) {
		t.Error("after a restart it has a trie of its own")
	}
	if err := g.SetPhone(100, appguard.Phone{Names: allowNames}); err != nil {
		t.Fatal(err)
	}
	shared(g, 2, 11)
	for cgroup := range g.Phones() {
		if err := g.RemovePhone(cgroup); err != nil {
			t.Error(err)
		}
	}
	nothing(t, g)
}

// A phone that gets another cgroup keeps its slot and its denials, and the former cgroup has no rules any more.
func TestAnotherCgroup(t *testing.T) {
	g := open(t)
	allowPing(t)
	former, now := makePhone(t, "p1"), makePhone(t, "p2")
	rules := appguard.Phone{Slot: 5, Apps: apps}
	former.set(t, g, rules)
	if met := former.guest(t, as(appOffline)...); !slices.Equal(met[1:], shutWays) {
		t.Errorf("it meets %v", met)
	}
	now.set(t, g, rules)
	if met := former.guest(t, as(appOffline)...); !slices.Equal(met[1:], openWays) {
		t.Errorf("in the former cgroup it meets %v", met)
	}
	if diff := cmp.Diff(map[uint64]uint32{now.id: 5}, g.Phones()); diff != "" {
		t.Error(diff)
	}
	if list := drain(t, g, 5); len(list) != 1 {
		t.Errorf("denials are %v", list)
	}
}

// Another guard goes on with what it finds, and without one all holds.
func TestAdopted(t *testing.T) {
	g := open(t)
	allowPing(t)
	p := makePhone(t, "p1")
	p.set(t, g, appguard.Phone{Slot: 3, Names: denyNames, Apps: apps})
	before := g.MapIDs()
	if met := p.guest(t, as(appOffline)...); met[1] != "EPERM" {
		t.Errorf("it meets %v", met)
	}
	g.Close()
	if met := p.guest(t, as(appOffline)...); met[1] != "EPERM" {
		t.Errorf("without a guard it meets %v", met)
	}
	g = reopen(t)
	if diff := cmp.Diff(before, g.MapIDs()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[uint64]uint32{p.id: 3}, g.Phones()); diff != "" {
		t.Error(diff)
	}
	if list := drain(t, g, 3); len(list) != 1 || list[0].Count < 12 {
		t.Errorf("denials are %v", list)
	}
	if err := g.RemovePhone(p.id); err != nil {
		t.Error(err)
	}
	if met := p.guest(t, as(appOffline)...); met[1] == "EPERM" {
		t.Errorf("removed, it meets %v", met)
	}
	nothing(t, g)
}

// switching are two sets of rules that both let appAllowed have a network and appOffline none; parts of both together do not.
var switching = []appguard.Phone{
	{Names: denyNames, Apps: map[uint32]appguard.Bits{appOffline: appguard.DenyNetwork, appDenied: appguard.DenyRun}},
	{Names: allowNames, UnlistedDeny: true, Apps: map[uint32]appguard.Bits{appAllowed: 0, appOffline: appguard.DenyNetwork}, UnknownDeny: true},
}

// watch has processes of a phone ask again and again; what is returned ends that and fails the test if any has met anything else.
func (p phone) watch(t *testing.T) (end func()) {
	t.Helper()
	var all []dialogue
	for uid, met := range map[uint32]string{appAllowed: "done", appOffline: "EPERM"} {
		all = append(all, p.begin(t, fmt.Sprintf("setresuid %d %[1]d 0", uid), "often "+met+" connect udp 4 9"))
	}
	for _, d := range all {
		if met := d.line(t); met != "done" {
			t.Fatal(met)
		}
	}
	return func() {
		t.Helper()
		for _, d := range all {
			if met := d.ask(t); met != "done" {
				t.Errorf("while rules change: %s", met)
			}
		}
	}
}

// Every verdict is by the old rules or by the new ones.
func TestSwitch(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	p.set(t, g, switching[0])
	end := p.watch(t)
	rounds := 100
	if few() {
		rounds = 30
	}
	for round := range rounds {
		p.set(t, g, switching[round%2])
	}
	end()
	have, err := g.Elements()
	if diff := cmp.Diff(map[string]int{"names": 1, "uids": 1, "denials": 1, "phones": 1, "states": 1}, have); diff != "" || err != nil {
		t.Errorf("elements, %v (-want +got):\n%s", err, diff)
	}
}

// A hundred phones change to a list of 500 packages at once, and have one trie.
func TestManyPhones(t *testing.T) {
	g := open(t)
	const phones = 100
	var names []appguard.Name
	for i := range 500 {
		names = append(names, appguard.Name{Name: fmt.Sprintf("com.example.app%d", i), Deny: true})
	}
	known := map[uint32]appguard.Bits{}
	for i := range uint32(300) {
		known[10000+i] = appguard.Bits(i % 4)
	}
	for round := range 3 {
		var all sync.WaitGroup
		for slot := range uint32(phones) {
			all.Go(func() {
				if err := g.SetPhone(uint64(1000+slot), appguard.Phone{Slot: slot, Names: names[round:], Apps: known}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for slot := range uint32(phones) {
			if g.TrieOf(slot) != g.TrieOf(0) {
				t.Errorf("slot %d has a trie of its own", slot)
			}
		}
	}
	if n := len(g.Phones()); n != phones {
		t.Errorf("there are %d phones", n)
	}
	var all sync.WaitGroup
	for cgroup := range maps.Clone(g.Phones()) {
		all.Go(func() {
			if err := g.RemovePhone(cgroup); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	nothing(t, g)
}

// Maps that are too small are made anew when nobody uses them, and larger ones serve.
func TestMorePhones(t *testing.T) {
	sized := func(n uint32) func(*appguard.Config) { return func(c *appguard.Config) { c.MaxPhones = n } }
	g := open(t, sized(4))
	before := g.MapIDs()
	if err := g.SetPhone(7, appguard.Phone{Slot: 3}); err != nil {
		t.Fatal(err)
	}
	g.Close()
	c := config()
	c.MaxPhones = 8
	if _, err := appguard.Open(t.Context(), c); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "1 phones") {
		t.Errorf("more phones, while there are some: %v", err)
	}
	g = reopen(t, sized(2))
	if diff := cmp.Diff(before, g.MapIDs()); diff != "" {
		t.Error(diff)
	}
	if err := g.RemovePhone(7); err != nil {
		t.Fatal(err)
	}
	g.Close()
	g = reopen(t, sized(8))
	if err := g.SetPhone(7, appguard.Phone{Slot: 7}); err != nil {
		t.Error(err)
	}
}
