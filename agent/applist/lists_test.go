package applist

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy/applist"
)

// change changes a list and returns what became of it: its mode, entries and generation, or the reason of the refusal.
func (l *life) change(name string, e Edit) string {
	l.t.Helper()
	list, _, err := l.Change(l.t.Context(), name, e, "client/fleet")
	if err != nil {
		return strings.TrimSpace(fault.Reason(err) + " " + fault.Meta(err)["field"])
	}
	return list.words()
}

func (l List) words() string {
	return fmt.Sprintf("%v %s enabled=%t strict=%t isolated=%t %d", l.Mode, strings.Join(l.Packages, ","), l.Enabled, l.Strict, l.DenyIsolated, l.Generation)
}

func TestLists(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		deny := func(entries ...string) *applist.List { return &applist.List{Mode: applist.Deny, Packages: entries} }
		many := make([]string, applist.MaxPackages)
		for i := range many {
			many[i] = fmt.Sprintf("com.example.app%03d", i)
		}
		off, on := new(false), new(true)
		for i, step := range []struct {
			name string
			edit Edit
			want string
		}{
			{"games", Edit{Add: []string{"com.a"}}, "NO_SUCH_APP_LIST"},
			{"games", Edit{Put: deny("com.a", "com.b.*")}, "deny com.a,com.b.* enabled=true strict=false isolated=false 1"},
			{"games", Edit{Put: deny("com.a", "com.b.*")}, "deny com.a,com.b.* enabled=true strict=false isolated=false 1"}, // the same again
			{"games", Edit{Enabled: off}, "deny com.a,com.b.* enabled=false strict=false isolated=false 2"},
			{"games", Edit{Put: &applist.List{Mode: applist.Allow, Packages: []string{"com.c"}, Strict: true, DenyIsolated: true, Description: "d"}}, "allow com.c enabled=false strict=true isolated=true 3"},
			{"games", Edit{Add: []string{"com.d", "com.c"}, Remove: []string{"com.c"}, Enabled: on}, "allow com.d,com.c enabled=true strict=true isolated=true 4"},
			{"games", Edit{Remove: []string{"com.nothing"}}, "allow com.d,com.c enabled=true strict=true isolated=true 4"},
			{"off", Edit{Put: deny(), Enabled: off}, "deny  enabled=false strict=false isolated=false 1"},
			{"full", Edit{Put: deny(many...)}, "deny " + strings.Join(many, ",") + " enabled=true strict=false isolated=false 1"},
			{"full", Edit{Add: []string{"com.one.more"}}, "INVALID_FIELD add_packages"},
			{" x", Edit{Put: deny()}, "INVALID_FIELD name"},
			{"", Edit{}, "INVALID_FIELD name"},
			{"x", Edit{Put: &applist.List{}}, "INVALID_FIELD mode"},
			{"x", Edit{Put: &applist.List{Mode: applist.Deny, Description: strings.Repeat("x", 256)}}, "INVALID_FIELD description"},
			{"x", Edit{Put: deny("com.a", "nodots")}, "INVALID_FIELD packages"},
			{"x", Edit{Put: deny("com.a", "com.a")}, "INVALID_FIELD packages"},
			{"games", Edit{Add: []string{"*"}}, "INVALID_FIELD add_packages"},
			{"games", Edit{Remove: []string{"-"}}, "INVALID_FIELD remove_packages"},
		} {
			if got := l.change(step.name, step.edit); got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
		}
		_, remarks, err := l.Change(t.Context(), "games", Edit{Remove: []string{"com.nothing"}}, "uid/0")
		if err != nil || len(remarks) != 2 || remarks[1] != "com.nothing was not in the list" {
			t.Errorf("remarks %q, %v", remarks, err)
		}
		_, remarks, err = l.Change(t.Context(), "none", Edit{Put: &applist.List{Mode: applist.Allow}}, "uid/0")
		if err != nil || len(remarks) != 1 || !strings.Contains(remarks[0], "allows no app") {
			t.Errorf("remarks of an empty allow list %q, %v", remarks, err)
		}
		l.end()
		l = h.begin()
		defer l.end()
		var all []string
		for _, list := range l.List() {
			all = append(all, list.Name)
			if list.Name != "games" {
				continue
			}
			if got := list.words(); got != "allow com.d,com.c enabled=true strict=true isolated=true 4" || list.Description != "d" || list.UpdatedBy != "client/fleet" || list.UpdateTime.IsZero() {
				t.Errorf("after a restart: %s %+v", got, list)
			}
		}
		if want := []string{"full", "games", "none", "off"}; !slices.Equal(all, want) {
			t.Errorf("lists %q, want %q", all, want)
		}
	})
}

func TestTooManyLists(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		err := l.db.Update(func(tx *store.Tx) error {
			var errs []error
			for i := range MaxLists {
				errs = append(errs, table.Put(tx, fmt.Appendf(nil, "list %d", i), stored{Mode: "deny"}))
			}
			return errors.Join(errs...)
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.change("one more", Edit{Put: &applist.List{Mode: applist.Deny}}); got != TooMany {
			t.Errorf("%s, want %s", got, TooMany)
		}
	})
}

// TestListThatCannotBeRead leaves the kernel as it is, tells why, starts no phone with other rules, and takes a new list in its place.
func TestListThatCannotBeRead(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		l.put("games", applist.Deny, "com.a")
		l.create("p1", "games")
		h.installs("p1", launcher, "com.a 10002")
		l.on("p1")
		err := l.db.Update(func(tx *store.Tx) error {
			return tx.Bucket(store.AppLists).Put([]byte("games"), []byte(`{"mode":"newer","packages":["com.b"]}`))
		})
		if err != nil {
			t.Fatal(err)
		}
		l.end()
		l = h.begin()
		defer l.end()
		l.want("p1", "install:com.a- 10002-")
		if s := l.state("p1"); s.InForce || !strings.Contains(s.Problem, "cannot be read") {
			t.Errorf("%+v", s)
		}
		if list, _, err := l.Get("games"); err != nil || list.Problem == "" {
			t.Errorf("%+v %v", list, err)
		}
		if r := l.do(operation.Restart, "p1", nil); r.State != operation.Failed {
			t.Errorf("restart: %+v", r)
		}
		if _, _, err := l.Change(t.Context(), "games", Edit{Add: []string{"com.c"}}, "uid/0"); err == nil {
			t.Error("a list that cannot be read was changed")
		}
		l.put("games", applist.Deny, "com.b")
		l.on("p1")
		l.want("p1", "install:com.a+ install:com.b- 10002+")
	})
}

func TestAssign(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		for _, id := range []string{"p1", "p2"} {
			l.create(id, "")
		}
		h.installs("p1", launcher, "com.a 10002", "com.b 10002", "com.android.phone 1001 @system")
		l.on("p1")
		l.put("games", applist.Deny, "com.a")
		l.put("work", applist.Allow, "com.a", "com.b")
		assign := func(name string, move, force bool, ids ...string) string {
			errs, _, err := l.Assign(t.Context(), name, ids, move, force, "uid/0")
			if err != nil {
				return fault.Reason(err)
			}
			words := []string{}
			for _, err := range errs {
				words = append(words, fault.Reason(err))
			}
			return strings.Join(words, ",")
		}
		lists := func() string {
			var all []string
			for _, snap := range l.sup.List() {
				all = append(all, snap.Record.Spec.AppList)
			}
			return strings.Join(all, ",")
		}
		for i, step := range []struct {
			name        string
			move, force bool
			ids         []string
			want, then  string
		}{
			{"nothing", false, false, []string{"p1"}, fault.NoSuchAppList, ","},
			{"", false, false, []string{"p1"}, fault.InvalidField, ","},
			{"games", false, false, []string{"p1"}, SharedUID, ","}, // whose packages nobody has followed yet
			{"work", false, false, nil, fault.InvalidField, ","},
			{"work", false, false, []string{"p1", "p2", "p3"}, ",," + fault.NoSuchPhone, "work,work"},
			{"games", false, true, []string{"p1", "p2"}, fault.AppListTaken + "," + fault.AppListTaken, "work,work"},
			{"games", true, false, []string{"p1", "p2"}, SharedUID + ",", "work,games"}, // p2 has no table yet
			{"games", true, true, []string{"p1"}, "", "games,games"},
		} {
			if got := assign(step.name, step.move, step.force, step.ids...); got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
			if got := lists(); got != step.then {
				t.Errorf("step %d: the phones are on %s, want %s", i, got, step.then)
			}
		}
		l.want("p1", "10001+ 10002- 1001+")
		errs, _, _ := l.Assign(t.Context(), "games", []string{"p1"}, false, false, "uid/0")
		if text := fmt.Sprint(errs[0]); !strings.Contains(text, "com.a") || !strings.Contains(text, "com.b") || !strings.Contains(text, "p1") {
			t.Errorf("the refusal does not name the packages: %s", text)
		}
		// A list that is changed is held against what its phones have, too, and a list that names what cannot be told apart says so.
		if got := l.change("games", Edit{Add: []string{"com.c"}}); got != SharedUID {
			t.Errorf("change: %s, want %s", got, SharedUID)
		}
		_, remarks, err := l.Change(t.Context(), "games", Edit{Add: []string{"com.b", "com.android.phone"}}, "uid/0")
		if err != nil || len(remarks) != 1 || !strings.HasPrefix(remarks[0], "on p1: com.android.phone: ") {
			t.Errorf("remarks %q, %v", remarks, err)
		}
		l.want("p1", "10002- 1001+ install:com.android.phone-")
	})
}

func TestDelete(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		l.create("p1", "")
		h.installs("p1", launcher, "com.a 10002")
		l.on("p1")
		for _, name := range []string{"a", "b", "c", "d"} {
			l.put(name, applist.Deny, "com.a")
		}
		l.assign("b", "p1")
		remove := func(force bool, names ...string) string {
			errs, err := l.Delete(t.Context(), names, force, "uid/0")
			if err != nil {
				return fault.Reason(err)
			}
			words := []string{}
			for _, err := range errs {
				words = append(words, fault.Reason(err))
			}
			return strings.Join(words, ",")
		}
		if got, want := remove(false, "a", "b", "none", "c"), ","+InUse+","+fault.NoSuchAppList+","; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		l.want("p1", "10002-")
		if got := remove(true, "b"); got != "" {
			t.Errorf("by force: %s", got)
		}
		l.want("p1", "none")
		if got, want := remove(false)+" "+remove(false, make([]string, MaxBatch+1)...), "INVALID_FIELD INVALID_FIELD"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if all := l.List(); len(all) != 1 || all[0].Name != "d" {
			t.Errorf("left: %v", all)
		}
		got := l.events(event.AppListChanged)
		want := []string{"app_list=a change=deleted requested_by=uid/0", "app_list=c change=deleted requested_by=uid/0", "app_list=b change=deleted requested_by=uid/0"}
		if !slices.Equal(got[4:], want) {
			t.Errorf("events: %q", got)
		}
		if _, _, err := l.Get("b"); fault.Reason(err) != fault.NoSuchAppList {
			t.Error(err)
		}
	})
}

// TestStrict refuses strict lists where the kernel does not keep them, naming what is missing, also when it has ceased to.
func TestStrict(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		l.create("p1", "")
		l.on("p1")
		strict := Edit{Put: &applist.List{Mode: applist.Deny, Packages: []string{"com.a"}, Strict: true}}
		if got := l.change("kept", strict); !strings.HasPrefix(got, "deny") {
			t.Fatal(got)
		}
		l.assign("kept", "p1")
		tierC := Status{Tier: "C", Mechanism: "kill", Launch: true, Network: true, Why: []string{"lsm: bpf is not in lsm="}}
		h.k.edit(func() { h.k.status = tierC })
		_, _, err := l.Change(t.Context(), "other", strict, "uid/0")
		if fault.Reason(err) != StrictNotKept || !strings.Contains(err.Error(), "installations: lsm: bpf is not in lsm=") || fault.Meta(err)["missing"] != "installations" {
			t.Errorf("put: %v", err)
		}
		strict.Enabled = new(false)
		if got := l.change("other", strict); !strings.HasPrefix(got, "deny") {
			t.Errorf("a list that is not in force: %s", got)
		}
		if got := l.change("other", Edit{Enabled: new(true)}); got != StrictNotKept {
			t.Errorf("enable: %s", got)
		}
		if _, _, err := l.Assign(t.Context(), "kept", []string{"p1"}, false, false, "uid/0"); fault.Reason(err) != StrictNotKept {
			t.Errorf("assign: %v", err)
		}
		if list, _, err := l.Get("kept"); err != nil || !strings.Contains(list.Problem, "installations") {
			t.Errorf("%+v %v", list, err)
		}
		l.still()
		synctest.Wait()
		waitFor := func(want bool) {
			t.Helper()
			l.sleep(2 * drainAll)
			if s := l.state("p1"); s.InForce != want {
				t.Errorf("%+v, want in force %t", s, want)
			}
		}
		waitFor(false)
		l.want("p1", "install:com.a-") // as far as it goes
		r := l.do(operation.Restart, "p1", nil)
		if r.State != operation.Failed || r.Failure.Reason != StrictNotKept {
			t.Errorf("restart: %+v", r.Failure)
		}
		h.k.edit(func() { h.k.status = Status{Tier: "A", Install: true, Launch: true, Network: true} })
		waitFor(true)
		l.on("p1")
		l.put("plain", applist.Deny, "com.a")
		h.k.edit(func() { h.k.status = tierC })
		errs, _, err := l.Assign(t.Context(), "plain", []string{"p1"}, true, false, "uid/0")
		if s := l.state("p1"); errors.Join(append(errs, err)...) != nil || !s.InForce || !strings.Contains(s.Problem, "does not refuse installations") {
			t.Errorf("a list that is not strict: %v %v %+v", errs, err, s)
		}
	})
}

func TestCheck(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		l.create("p1", "")
		l.create("p2", "")
		h.installs("p1", launcher, "com.a 10002", "com.b 10003")
		l.on("p1")
		l.put("kids", applist.Allow, "com.a")
		l.assign("kids", "p1", "p2")
		l.still()
		for _, tt := range []struct{ id, pkg, want string }{
			{"p1", "com.a", "kids com.a installed=true 10002 listed+ listed+ listed+"},
			{"p1", "com.b", "kids  installed=true 10003 unlisted- unlisted- unlisted-"},
			{"p1", "com.c", "kids  installed=false 0 unlisted- not-installed- not-installed-"},
			{"p1", "com.android.launcher", "kids  installed=true 10001 preinstalled+ preinstalled+ preinstalled+"},
			{"p2", "com.c", "kids  installed=false 0 unlisted- no-table+ no-table+"},
			{"p3", "com.c", fault.NoSuchPhone},
			{"p1", "x", fault.InvalidField},
		} {
			a, err := l.Check(tt.id, tt.pkg)
			got := fault.Reason(err)
			if err == nil {
				got = fmt.Sprintf("%s %s installed=%t %d", a.AppList, a.Entry, a.Installed, a.AppID)
				for _, v := range []applist.Answer{a.Install, a.Launch, a.Network} {
					got += " " + v.Rule.String() + map[bool]string{true: "-", false: "+"}[v.Deny]
				}
			}
			if got != tt.want {
				t.Errorf("%s of %s: %s, want %s", tt.pkg, tt.id, got, tt.want)
			}
		}
		if a, err := l.Check("p1", "com.b"); err != nil || a.Status.Tier != "A" || !a.State.InForce {
			t.Errorf("%+v %v", a, err)
		}
		if _, err := l.Unassign(t.Context(), []string{"p1"}, "uid/0"); err != nil {
			t.Fatal(err)
		}
		if a, err := l.Check("p1", "com.b"); err != nil || a.AppList != "" || a.Launch.Deny || a.Launch.Rule != applist.Unrestricted {
			t.Errorf("on no list: %+v %v", a, err)
		}
	})
}
