package applist_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/netpolicy/applist"
	"github.com/phonehost/phonehost/netpolicy/packages"
)

func TestCompile(t *testing.T) {
	disabled := list(applist.Allow)
	disabled.Enabled = false
	for name, tt := range map[string]struct {
		list applist.List
		want applist.Names
	}{
		"deny": {list(applist.Deny, "com.b.*", "com.a", "com.b.c", "com.b", "com.b.d.*", "com.bc"), applist.Names{Entries: []applist.Entry{
			{Name: "com.a", Deny: true}, {Name: "com.b", Deny: true}, {Name: "com.b.", Prefix: true, Deny: true}, {Name: "com.bc", Deny: true},
		}}},
		"deny nothing": {list(applist.Deny), applist.Names{}},
		"allow": {list(applist.Allow, "com.a", "com.android.launcher"), applist.Names{UnlistedDeny: true, Entries: []applist.Entry{
			{Name: "android"}, {Name: "com.a"}, {Name: "com.android.launcher"}, {Name: "com.android.settings"}, {Name: "com.vendor.core"},
		}}},
		"allow by pattern": {list(applist.Allow, "com.android.*"), applist.Names{UnlistedDeny: true, Entries: []applist.Entry{
			{Name: "android"}, {Name: "com.android.", Prefix: true}, {Name: "com.vendor.core"},
		}}},
		"disabled": {disabled, applist.Names{}},
	} {
		if diff := cmp.Diff(tt.want, applist.Compile(tt.list, image)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	// An image cannot bring what is no directory's name.
	odd := map[string]bool{"": true, "a\x00b": true, strings.Repeat("a", 256): true, strings.Repeat("a", 255): true}
	if n := applist.Compile(list(applist.Allow), odd); len(n.Entries) != 1 || len(n.Entries[0].Key()) != applist.KeySize {
		t.Errorf("of %d odd names %v are left", len(odd), n.Entries)
	}
}

// source makes lists and phones of a list of bytes: a fuzzer that changes a byte changes one choice. When the bytes are at an end, it goes
// on with numbers that follow from them.
type source struct {
	bytes []byte
	more  *rand.Rand
}

func newSource(b []byte) *source {
	var seed [16]byte
	copy(seed[:], b)
	return &source{b, rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:]), binary.LittleEndian.Uint64(seed[8:])))}
}

// below returns a number from 0 up to n, at most 256.
func (s *source) below(n int) int {
	if len(s.bytes) == 0 {
		return s.more.IntN(n)
	}
	b := s.bytes[0]
	s.bytes = s.bytes[1:]
	return int(b) % n
}

// name makes a name, of few parts of few letters so that names begin with each other. A few are as long as names get.
func (s *source) name() string {
	var parts []string
	for range 2 + s.below(3) {
		parts = append(parts, []string{"a", "b", "ab", "aB", "a_", "a1"}[s.below(6)])
	}
	name := strings.Join(parts, ".")
	if s.below(16) == 0 {
		name += strings.Repeat("x", applist.MaxName-len(name))
	}
	return name
}

// names makes some names.
func (s *source) names(most int) []string {
	var all []string
	for range s.below(most + 1) {
		all = append(all, s.name())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (s *source) list() applist.List {
	l := applist.List{Name: "fuzz", Mode: applist.Mode(1 + s.below(2)), Enabled: s.below(16) > 0}
	for _, name := range s.names(12) {
		switch s.below(4) {
		case 0:
			name = name[:min(len(name), 20)] + ".*"
		case 1:
			name = name[:strings.Index(name, ".")] + ".*"
		}
		if !slices.Contains(l.Packages, name) {
			l.Packages = append(l.Packages, name)
		}
	}
	return l
}

func (s *source) image() map[string]bool {
	all := map[string]bool{"android": true}
	for _, name := range s.names(8) {
		all[name] = s.below(8) > 0
	}
	return all
}

// table makes a table of packages, which share app ids often; nil now and then.
func (s *source) table(t testing.TB) *packages.Table {
	if s.below(16) == 0 {
		return nil
	}
	ids := []string{"1000", "1001", "9999", "10000", "10001", "10002", "10003", "10004", "19999"}
	var text strings.Builder
	text.WriteString("android 1000 0 /data/system s none\n")
	for _, name := range s.names(16) {
		text.WriteString(name + " " + ids[s.below(len(ids))] + " 0 /data s none\n")
	}
	table, err := packages.Parse(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// asked are names about which a list may be wrong: those that it has, and what is like them.
func (s *source) asked(l applist.List, image map[string]bool) []string {
	all := []string{"a", "a.", ".", "android", strings.Repeat("a", applist.KeySize-1)}
	for range 32 {
		all = append(all, s.name())
	}
	for name := range image {
		all = append(all, name)
	}
	for _, e := range l.Packages {
		name := strings.TrimSuffix(e, "*")
		all = append(all, name, name+"a", name+".", name+".a", name[:len(name)-1], strings.ToUpper(name), name+strings.Repeat("y", applist.KeySize-1-len(name)))
	}
	return all
}

// FuzzJudge compares what a list means with what the kernel is given of it, of names and of uids, and with how that is explained.
func FuzzJudge(f *testing.F) {
	f.Add([]byte{})
	for seed := range uint64(64) {
		f.Add(binary.BigEndian.AppendUint64([]byte{byte(seed)}, seed*0x9e3779b97f4a7c15))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSource(b)
		l, p := s.list(), applist.Phone{Preinstalled: s.image()}
		if err := l.Validate(); err != nil {
			t.Fatal(err)
		}
		p.Table = s.table(t)
		asked := s.asked(l, p.Preinstalled)
		compareNames(t, l, p, asked)
		compareApps(t, l, p)
		compareExplained(t, l, p, asked)
	})
}

// compareNames asks a list and its Names the same.
func compareNames(t *testing.T, l applist.List, p applist.Phone, asked []string) {
	t.Helper()
	n := applist.Compile(l, p.Preinstalled)
	for _, pkg := range asked {
		if want, got := l.Denies(pkg, p.Preinstalled[pkg]), n.Judge(pkg); got != want {
			t.Fatalf("%q is denied: %v, want %v\n%+v\n%+v", pkg, got, want, l, n)
		}
	}
	for i, e := range n.Entries {
		less := applist.Names{Entries: slices.Delete(slices.Clone(n.Entries), i, i+1), UnlistedDeny: n.UnlistedDeny}
		if pkg := strings.TrimSuffix(e.Name, "."); less.Judge(e.Name) == n.Judge(e.Name) && less.Judge(pkg) == n.Judge(pkg) {
			t.Fatalf("%+v changes nothing in %+v", e, n)
		}
	}
}

// compareApps holds the verdicts on app ids against what the list says of each package that has them.
func compareApps(t *testing.T, l applist.List, p applist.Phone) {
	t.Helper()
	a := applist.Verdicts(l, p.Preinstalled, p.Table)
	if p.Table == nil {
		if len(a.Verdicts) > 0 || a.UnknownDeny || a.Judge(10000) != 0 || a.Err() != nil {
			t.Fatalf("without a table there is %+v", a)
		}
		return
	}
	for _, id := range p.Table.AppIDs() {
		some, all, keep := false, true, false
		for _, pkg := range p.Table.ByAppID(id) {
			deny := l.Denies(pkg.Name, p.Preinstalled[pkg.Name])
			some, all = some || deny, all && deny
			keep = keep || l.Mode == applist.Allow && p.Preinstalled[pkg.Name]
		}
		system := packages.KindOf(id) == packages.System
		want := some && !system && !keep
		for _, uid := range []uint32{id, 10*packages.UsersApart + id} {
			if got := a.Judge(uid) == applist.RunDeny|applist.NetDeny; got != want || a.Judge(uid) != 0 && !got {
				t.Fatalf("%d is denied: %v, want %v\n%+v\n%+v", uid, a.Judge(uid), want, l, a)
			}
		}
		shared := slices.ContainsFunc(a.Shared, func(s applist.Shared) bool { return s.AppID == id })
		warned := slices.ContainsFunc(a.Warnings, func(w applist.Warning) bool { return w.AppID == id })
		if shared != (want && !all) || warned != (some && !want) {
			t.Fatalf("of %d is said that it is shared: %v, that it is not denied: %v\n%+v\n%+v", id, shared, warned, l, a)
		}
	}
	unknown := uint32(15000)
	if got, want := a.Judge(unknown) != 0, l.Enabled && l.Mode == applist.Allow; got != want || !a.Unknown(unknown) {
		t.Fatalf("an unknown app is denied: %v, want %v", got, want)
	}
	if (a.Err() != nil) != (len(a.Shared) > 0) {
		t.Fatalf("%v is the error for %+v", a.Err(), a.Shared)
	}
}

// compareExplained holds what is explained against what is enforced.
func compareExplained(t *testing.T, l applist.List, p applist.Phone, asked []string) {
	t.Helper()
	n, a := applist.Compile(l, p.Preinstalled), applist.Verdicts(l, p.Preinstalled, p.Table)
	if p.Table != nil {
		for _, pkg := range p.Table.All() {
			asked = append(asked, pkg.Name)
		}
	}
	for _, pkg := range asked {
		e := applist.Explain(&l, p, pkg)
		if e.Install.Deny != n.Judge(pkg) || e.Install.Why == "" || e.Launch.Why == "" || e.Launch != e.Network {
			t.Fatalf("%+v is explained by %+v", l, e)
		}
		if e.Installed && (e.Launch.Deny != (a.Judge(e.AppID)&applist.RunDeny != 0) || e.Network.Deny != (a.Judge(e.AppID)&applist.NetDeny != 0)) {
			t.Fatalf("%d is judged %v, and explained by %+v\n%+v", e.AppID, a.Judge(e.AppID), e, l)
		}
		if !e.Installed && p.Table != nil && e.Launch.Deny != e.Install.Deny {
			t.Fatalf("%q is not installed, and explained by %+v", pkg, e)
		}
	}
}
