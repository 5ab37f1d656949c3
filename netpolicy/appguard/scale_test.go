package appguard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// The size of testScale: as many packages as a list may have, and more apps than a phone has.
const (
	scalePhones   = 100
	scalePackages = 500
	scaleApps     = 300
)

// scaleRules are those of a phone: 500 packages with a word in their names may not be installed, and of two apps the first or the second may not run, or
// has no network where launches are not refused.
func scaleRules(slot uint32, word string, first bool, bits appguard.Bits) appguard.Phone {
	p := appguard.Phone{Slot: slot, Apps: map[uint32]appguard.Bits{}}
	for i := range scalePackages {
		p.Names = append(p.Names, appguard.Name{Name: fmt.Sprintf("com.%s.app%d", word, i), Deny: true})
	}
	for i := range uint32(scaleApps) {
		p.Apps[10000+i] = 0
	}
	if first {
		p.Apps[appAllowed] = bits
	} else {
		p.Apps[appDenied] = bits
	}
	return p
}

// testScale has 100 phones with 500 packages each, and asks in every one of them what is refused: first by the same list on all, then, when every second
// has got another, by that of each.
func testScale(t *testing.T, g *appguard.Guard) {
	shown := g.Status().Shown
	bits := appguard.DenyNetwork
	if shown.Launch {
		bits |= appguard.DenyRun
	}
	var phones []phone
	for i := range scalePhones {
		phones = append(phones, makePhone(t, fmt.Sprintf("scale%d", i)))
	}
	set := func(some func(i int) bool, word string, first bool) {
		t.Helper()
		var setting errgroup.Group
		setting.SetLimit(adoptAtOnce)
		for i, p := range phones {
			if some(i) {
				setting.Go(func() error { return g.SetPhone(p.id, scaleRules(uint32(i), word, first, bits)) })
			}
		}
		if err := setting.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	odd := func(i int) bool { return i%2 == 1 }
	set(func(int) bool { return true }, "one", true)
	for i, p := range phones {
		p.wantScale(t, i, "one", true, shown)
	}
	set(odd, "other", false)
	for i, p := range phones {
		if few() && i%5 > 1 {
			continue
		}
		word, first := "one", true
		if odd(i) {
			word, first = "other", false
		}
		p.wantScale(t, i, word, first, shown)
	}
	if g.TrieOf(0) != g.TrieOf(98) || g.TrieOf(1) != g.TrieOf(99) || g.TrieOf(0) == g.TrieOf(1) {
		t.Errorf("phones with the same names do not share them: %d, %d, %d, %d", g.TrieOf(0), g.TrieOf(98), g.TrieOf(1), g.TrieOf(99))
	}
	for _, p := range phones {
		if err := g.RemovePhone(p.id); err != nil {
			t.Error(err)
		}
	}
	nothing(t, g)
}

// wantScale has processes of a phone try what its rules refuse and what they do not.
func (p phone) wantScale(t *testing.T, i int, word string, first bool, shown appguard.Shown) {
	t.Helper()
	dir := filepath.Join(scratch(t), "app/~~r")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	allowed, denied := uint32(appDenied), uint32(appAllowed)
	if !first {
		allowed, denied = denied, allowed
	}
	refused := map[bool]string{false: "done", true: "EPERM"}[shown.Install]
	steps := []string{
		fmt.Sprintf("mkdir %s/com.%s.app%d-1", dir, word, i), fmt.Sprintf("mkdir %s/com.%s.app%d-1", dir, word, scalePackages+i),
		fmt.Sprintf("setresuid %d %[1]d 0", allowed), "connect udp 4 9", "setresuid 0 0 0", fmt.Sprintf("setresuid %d %[1]d 0", denied),
	}
	want := []string{refused, "done", "done", "done", "done", "done", "EPERM"}
	if shown.Launch {
		want = append(want[:5], killed)
	} else {
		steps = append(steps, "connect udp 4 9")
	}
	if met := p.guest(t, steps...); !slices.Equal(met, want) {
		t.Errorf("phone %d, list %q: %v meets %v; want %v", i, word, steps, met, want)
	}
}

// TestScale is testScale with what this kernel refuses.
func TestScale(t *testing.T) { testScale(t, open(t)) }
