package applist

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/netpolicy/applist"
	"github.com/phonehost/phonehost/netpolicy/packages"
	"github.com/phonehost/phonehost/runtime/image/preinstalled"
)

const launcher = "com.android.launcher 10001 @system"

// TestFirstBoot starts a phone with fresh data on an allow list without packages, whose agent is killed before it has booted: apps that no table
// has run until the first complete one, and never again after that, also when the phone starts while no table is read; a reset begins anew.
func TestFirstBoot(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.w.Manner.AsksToBoot = -1
		h.images.read("sha256:1", preinstalled.Packages{Names: map[string]bool{"com.android.launcher": true}})
		l := h.begin()
		l.put("kids", applist.Allow)
		l.create("p1", "kids")
		if _, err := l.sup.Submit(t.Context(), phone.Request{Kind: operation.PowerOn, IDs: []string{"p1"}}); err != nil {
			t.Fatal(err)
		}
		l.still()
		l.want("p1", "install:com.a- install:com.android.launcher+ 10001+ 10002+ 110001+ 1000+")
		h.installs("p1", launcher) // while it boots
		l.still()
		l.want("p1", "install:com.a- install:com.android.launcher+ 10001+ 10002+ 20002+")
		if s := l.state("p1"); s.Complete || !s.InForce || s.Problem != "" {
			t.Errorf("while it boots: %+v", s)
		}
		l.end()
		l = h.begin() // of an agent that was killed meanwhile
		l.still()
		l.want("p1", "install:com.a- 10001+ 10002+")
		h.w.Lock()
		h.w.Manner.AsksToBoot = 1
		h.w.Unlock()
		time.Sleep(time.Minute)
		l.still()
		l.want("p1", "install:com.a- 10001+ 10002- 110002- 20002- 1000+ 90001+")
		if s := l.state("p1"); !s.Complete || !s.InForce {
			t.Errorf("when it has booted: %+v", s)
		}
		h.installs("p1", launcher, "com.a 10002")
		l.still()
		l.want("p1", "install:com.a- 10001+ 10002- 10003-")

		os.Remove(filepath.Join(h.dir, "p1", packages.Path))
		h.w.Lock()
		h.w.Hook = hookAt("StartGuest before", func() { l.want("p1", "install:com.a- 10001+ 10002- 10003-") })
		h.w.Unlock()
		l.do(operation.Restart, "p1", nil)
		h.w.Lock()
		h.w.Hook = hookAt("StartGuest before", func() { l.want("p1", "install:com.a- 10001+ 10002+ 10003+") })
		h.w.Unlock()
		l.do(operation.Reset, "p1", nil)
		l.end()
	})
}

// hookAt returns a hook that does something whenever a point is passed. It runs on the controller's goroutine, which nothing waits for there.
func hookAt(point string, do func()) func(ctx context.Context, at, id string) error {
	return func(_ context.Context, at, _ string) error {
		if at == point {
			do()
		}
		return nil
	}
}

// TestAnotherImage brings a phone an image whose packages have app ids that no table has yet: they run until its first boot has completed.
func TestAnotherImage(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		l.put("kids", applist.Allow, "com.b")
		l.create("p1", "kids")
		h.installs("p1", launcher, "com.a 10002", "com.b 10003")
		l.on("p1")
		l.want("p1", "10001+ 10002- 10003+ 10004-")
		h.w.Lock()
		h.w.Manner.AsksToBoot = -1
		h.w.Unlock()
		if _, err := l.sup.Submit(t.Context(), phone.Request{Kind: operation.Restart, IDs: []string{"p1"}, Image: "newer"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		l.still()
		l.want("p1", "10001+ 10002- 10003+ 10004+")
		h.installs("p1", launcher, "com.a 10002", "com.b 10003", "com.android.new 10004 @product")
		h.w.Lock()
		h.w.Manner.AsksToBoot = 0
		h.w.Unlock()
		time.Sleep(time.Minute)
		l.still()
		l.want("p1", "10001+ 10002- 10003+ 10004+ 10005-")
	})
}

// TestChangesReachPhones changes a list in every way, and looks at a phone that runs, one that is off, and one that never ran.
func TestChangesReachPhones(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		for _, id := range []string{"runs", "off", "new"} {
			l.create(id, "")
			h.installs(id, launcher, "com.a 10002", "com.b 10003")
		}
		l.on("runs")
		l.on("off")
		l.do(operation.PowerOff, "off", nil)
		l.put("games", applist.Deny, "com.a")
		l.assign("games", "runs", "off", "new")
		l.still()
		l.want("runs", "install:com.a- install:com.b+ 10001+ 10002- 10003+ 10004+")
		l.want("off", "install:com.a- install:com.b+ 10002+")
		l.want("new", "none")
		if got := h.suspends("runs"); got != "com.a" {
			t.Errorf("suspended: %q", got)
		}
		dir := h.cgroup("runs").Dir
		h.k.edit(func() { h.k.runs[dir] = map[uint32]int{10001: 3, 10002: 1, 10003: 2} })
		enable, disable := new(true), new(false)
		for i, step := range []struct {
			edit Edit
			want string
		}{
			{Edit{Add: []string{"com.b"}}, "install:com.a- install:com.b- 10002- 10003-"},
			{Edit{Enabled: disable}, "none"},
			{Edit{Enabled: enable}, "install:com.a- install:com.b- 10002- 10003-"},
			{Edit{Remove: []string{"com.a"}}, "install:com.a+ install:com.b- 10002+ 10003-"},
			{Edit{Put: &applist.List{Mode: applist.Allow, Packages: []string{"com.a"}}}, "install:com.a+ install:com.b- 10001+ 10002+ 10003- 10004-"},
			{Edit{Put: &applist.List{Mode: applist.Deny, Packages: []string{"com.*"}}}, "install:com.a- install:com.b- 10001- 10002- 10003- 10004+"},
			{Edit{Put: &applist.List{Mode: applist.Deny, Packages: []string{"com.*"}, DenyIsolated: true}}, "10002- 90001- 199001-"},
		} {
			if _, _, err := l.Change(t.Context(), "games", step.edit, "uid/0"); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			// Without waiting for anything: the call has.
			var questions []string
			for word := range strings.FieldsSeq(step.want) {
				questions = append(questions, strings.TrimRight(word, "+-"))
			}
			if got := l.judges("runs", questions...); got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
			if i == 0 {
				if left := h.k.runs[dir]; len(left) != 1 || left[10001] != 3 {
					t.Errorf("apps that run: %v", left)
				}
			}
		}
		l.still()
		if got := h.suspends("runs"); got != "com.a com.android.launcher com.b" {
			t.Errorf("suspended: %q", got)
		}
		if got := l.events(event.AppDenied); !slices.Equal(got, []string{
			"runs app_list=games count=3 kind=stopped packages=com.a,com.b", "runs app_list=games count=3 kind=stopped packages=com.android.launcher",
		}) {
			t.Errorf("events: %q", got)
		}
		if errs, err := l.Unassign(t.Context(), []string{"runs", "off"}, "uid/0"); errors.Join(append(errs, err)...) != nil {
			t.Error(errs, err)
		}
		l.want("runs", "none")
		l.want("off", "none")
		l.still()
		if got := h.suspends("runs"); got != "" {
			t.Errorf("still suspended: %q", got)
		}
		l.on("new")
		l.want("new", "install:com.a- 10002- 10003-")
		want := []string{
			"app_list=games change=put generation=1 mode=deny packages=1 requested_by=uid/0",
			"app_list=games change=changed generation=2 mode=deny packages=2 requested_by=uid/0",
			"app_list=games change=disabled generation=3 mode=deny packages=2 requested_by=uid/0",
			"app_list=games change=enabled generation=4 mode=deny packages=2 requested_by=uid/0",
			"app_list=games change=changed generation=5 mode=deny packages=1 requested_by=uid/0",
			"app_list=games change=changed generation=6 mode=allow packages=1 requested_by=uid/0",
			"app_list=games change=changed generation=7 mode=deny packages=1 requested_by=uid/0",
			"app_list=games change=changed generation=8 mode=deny packages=1 requested_by=uid/0",
		}
		if got := l.events(event.AppListChanged); !slices.Equal(got, want) {
			t.Errorf("events:\n%s", strings.Join(got, "\n"))
		}
	})
}

// TestAppIDsAreUsedAgain follows a phone whose apps come and go: what a table says holds from then on, and nothing of the table before.
func TestAppIDsAreUsedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		l.put("games", applist.Deny, "com.a")
		l.create("p1", "games")
		h.installs("p1", launcher)
		l.on("p1")
		l.want("p1", "10002+")
		dir := h.cgroup("p1").Dir
		h.k.edit(func() { h.k.runs[dir] = map[uint32]int{10002: 1} }) // ran before the table had it
		h.installs("p1", launcher, "com.a 10002")
		l.still()
		l.want("p1", "10002-")
		if got := l.events(event.AppDenied); len(got) != 1 || !strings.Contains(got[0], "kind=stopped") {
			t.Errorf("events %q", got)
		}
		if got := h.suspends("p1"); got != "com.a" {
			t.Errorf("suspended: %q", got)
		}
		h.installs("p1", launcher, "com.c 10002")
		l.still()
		l.want("p1", "10002+")
		before := h.k.sets
		l.still()
		if h.k.sets != before {
			t.Error("what is the same is set again")
		}
	})
}

// TestListAgain puts a phone on a list, on none, and on one again: what it has installed meanwhile is judged by what it is, and is not ended because
// the table of then does not have it.
func TestListAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		l.create("p1", "")
		h.installs("p1", launcher, "com.a 10002")
		l.on("p1")
		l.put("kids", applist.Allow, "com.b")
		l.assign("kids", "p1")
		l.still()
		l.want("p1", "10002- 10003-")
		if errs, err := l.Unassign(t.Context(), []string{"p1"}, "uid/0"); errors.Join(append(errs, err)...) != nil {
			t.Fatal(errs, err)
		}
		h.installs("p1", launcher, "com.c 10002", "com.b 10003", "com.a 10005")
		dir := h.cgroup("p1").Dir
		h.k.edit(func() { h.k.runs[dir] = map[uint32]int{10001: 1, 10002: 1, 10003: 1} })
		l.assign("kids", "p1")
		if left := slices.Sorted(maps.Keys(h.k.runs[dir])); !slices.Equal(left, []uint32{10001, 10003}) {
			t.Errorf("apps that run: %v", left)
		}
		l.still()
		l.want("p1", "10001+ 10002- 10003+ 10004-")
		if got := h.suspends("p1"); got != "com.a com.c" {
			t.Errorf("suspended: %q", got)
		}
	})
}

// TestStoredIsApplied stores changes that the kernel does not take: the caller is told, the phone says why, the next try or the next agent brings
// it about, and a phone does not start before.
func TestStoredIsApplied(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		l.create("p1", "")
		l.create("p2", "")
		h.installs("p1", launcher, "com.a 10002")
		l.on("p1")
		l.put("games", applist.Deny, "com.a")
		h.k.edit(func() { h.k.fail = fmt.Errorf("no memory: %w", errdefs.ErrResourceExhausted) })
		errs, _, err := l.Assign(t.Context(), "games", []string{"p1", "p2"}, false, false, "uid/0")
		if err != nil || fault.Reason(errs[0]) != Failed || errs[1] != nil || !strings.Contains(errs[0].Error(), "no memory") {
			t.Errorf("assign: %v %v", errs, err)
		}
		if _, _, err := l.Change(t.Context(), "games", Edit{Add: []string{"com.b"}}, "uid/0"); fault.Reason(err) != Failed || !strings.Contains(err.Error(), "p1") {
			t.Errorf("change: %v", err)
		}
		if s := l.state("p1"); s.InForce || !strings.Contains(s.Problem, "no memory") {
			t.Errorf("%+v", s)
		}
		if r := l.do(operation.PowerOn, "p2", nil); r.State != operation.Failed {
			t.Errorf("a phone has started without its rules: %+v", r)
		}
		h.k.edit(func() { h.k.fail = nil })
		time.Sleep(2 * time.Minute)
		l.want("p1", "install:com.a- install:com.b- 10002-")
		if s := l.state("p1"); !s.InForce || s.Problem != "" {
			t.Errorf("%+v", s)
		}

		h.k.edit(func() { h.k.fail = fmt.Errorf("no memory: %w", errdefs.ErrResourceExhausted) })
		_, _, err = l.Change(t.Context(), "games", Edit{Remove: []string{"com.a"}}, "uid/0")
		if fault.Reason(err) != Failed {
			t.Error(err)
		}
		l.end()
		h.k.edit(func() { h.k.fail = nil; h.k.rules[7] = Rules{Slot: 99} }) // of a phone that is gone
		l = h.begin()
		l.want("p1", "install:com.a+ install:com.b- 10002+")
		if _, there := h.k.rules[7]; there {
			t.Error("the kernel has rules of a phone that is gone")
		}
		l.do(operation.Delete, "p1", func(q *phone.Request) { q.Force = true })
		l.do(operation.Delete, "p2", func(q *phone.Request) { q.Force = true })
		synctest.Wait()
		if len(h.k.rules) != 0 {
			t.Errorf("the kernel has rules of phones that were deleted: %v", h.k.rules)
		}
		l.create("p1", "games") // fresh data of another phone
		l.end()
		if l.h.k.status.Tier != "A" {
			t.Error("the host has changed")
		}
		l = h.begin()
		defer l.end()
		if a := l.ward("p1").apps; a.table != nil {
			t.Error("a phone has the table of another that had its name")
		}
	})
}

// TestHostWithoutEnforcement keeps lists and tells the guests where the kernel refuses nothing.
func TestHostWithoutEnforcement(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.beginOver(Unavailable{errors.New("this kernel has no cgroup programs")})
		defer l.end()
		l.put("games", applist.Deny, "com.a")
		l.create("p1", "games")
		h.installs("p1", launcher, "com.a 10002")
		l.on("p1")
		if s := l.state("p1"); s.InForce || !strings.Contains(s.Problem, "does not refuse installations, launches and the network") {
			t.Errorf("%+v", s)
		}
		if got := h.suspends("p1"); got != "com.a" {
			t.Errorf("suspended: %q", got)
		}
		_, _, err := l.Change(t.Context(), "strict", Edit{Put: &applist.List{Mode: applist.Deny, Strict: true}}, "uid/0")
		if fault.Reason(err) != StrictNotKept {
			t.Errorf("a strict list: %v", err)
		}
	})
}

// TestFollowsInotify follows a guest's packages in the time of the host, by what the kernel tells.
func TestFollowsInotify(t *testing.T) {
	h := newHost(t)
	watcher := packages.NewWatcher(nil)
	defer watcher.Close()
	h.follow = watcher
	l := h.begin()
	defer l.end()
	l.put("games", applist.Deny, "com.a")
	h.installs("p1", launcher)
	l.create("p1", "games")
	if r := l.do(operation.PowerOn, "p1", nil); r.State != operation.Succeeded {
		t.Fatalf("%+v", r)
	}
	changes := l.sup.Watch([]string{"p1"})
	defer changes.Close()
	h.installs("p1", launcher, "com.a 10002")
	for l.judges("p1", "10002") != "10002-" || l.realState("p1").DeniedApps != 1 {
		if _, err := changes.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// realState is state outside a bubble.
func (l *life) realState(id string) State {
	snap, err := l.sup.Get(id)
	if err != nil {
		l.t.Fatal(err)
	}
	s, _ := l.State(snap)
	return s
}
