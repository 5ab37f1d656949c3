package applist

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/netpolicy/applist"
)

// TestPackageManager has a guest whose package manager takes one package at a time, and one that does not answer at first.
func TestPackageManager(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		h.oneByOne = true
		l.put("games", applist.Deny, "com.a", "com.b")
		l.create("p1", "games")
		h.installs("p1", launcher, "com.a 10002", "com.b 10003")
		l.on("p1")
		if got := h.suspends("p1"); got != "com.a com.b" {
			t.Errorf("suspended: %q, asked %q", got, h.execs)
		}
		if !strings.HasPrefix(h.execs[0], "p1: pm suspend --user 0 --dialogMessage This app is not allowed on this phone (games).") {
			t.Errorf("asked %q", h.execs[0])
		}
		// What one agent has suspended the next one releases.
		h.mu.Lock()
		h.execErr = errors.New("no answer")
		h.mu.Unlock()
		if errs, err := l.Unassign(t.Context(), []string{"p1"}, "uid/0"); errors.Join(append(errs, err)...) != nil {
			t.Error(errs, err)
		}
		l.still()
		l.end()
		h.mu.Lock()
		h.execErr = nil
		h.mu.Unlock()
		l = h.begin()
		defer l.end()
		time.Sleep(time.Minute)
		if got := h.suspends("p1"); got != "" {
			t.Errorf("still suspended: %q", got)
		}
		asked := len(h.execs)
		time.Sleep(time.Hour)
		if len(h.execs) != asked {
			t.Errorf("asked again and again: %q", h.execs[asked:])
		}
	})
}

// TestToldOnce counts what a guest's package manager is told: once that an app is denied, in each run of the guest, and once that it is not any more,
// whatever else happens to the phone.
func TestToldOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer func() { l.end() }()
		told := func(what string, want ...string) {
			t.Helper()
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			var got []string
			for _, words := range h.execs {
				got = append(got, strings.Fields(words)[2])
			}
			if h.execs = nil; !slices.Equal(got, want) {
				t.Errorf("%s: it was told %q, want %q", what, got, want)
			}
		}
		l.create("p1", "")
		h.installs("p1", launcher, "com.a 10002")
		l.on("p1")
		l.put("games", applist.Deny, "com.a")
		told("on no list")
		l.assign("games", "p1")
		told("assigned", "suspend")
		l.put("games", applist.Deny, "com.a", "com.b")
		h.installs("p1", launcher, "com.a 10002", "com.c 10003")
		told("nothing new is denied")
		l.do(operation.Restart, "p1", nil)
		told("started anew", "suspend")
		l.end()
		l = h.begin()
		told("by another agent", "suspend")
		if errs, err := l.Unassign(t.Context(), []string{"p1"}, "uid/0"); errors.Join(append(errs, err)...) != nil {
			t.Fatal(errs, err)
		}
		told("unassigned", "unsuspend")
	})
}

// TestKernelFirst changes the list of phones of which each takes longer than the one before: no guest is told before the kernel has it of all of them.
func TestKernelFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		var ids []string
		for i := range 20 {
			id := fmt.Sprintf("p%d", i)
			ids = append(ids, id)
			l.create(id, "")
			h.installs(id, launcher, "com.a 10002")
			l.on(id)
		}
		l.put("games", applist.Deny, "com.b")
		l.assign("games", ids...)
		l.still()
		h.k.takes = time.Second
		h.onExec = func(id string) {
			for _, other := range ids {
				if got := l.judges(other, "10002"); got != "10002-" {
					t.Errorf("%s is told while the kernel has of %s: %s", id, other, got)
				}
			}
		}
		l.put("games", applist.Deny, "com.a")
		time.Sleep(time.Minute)
		for _, id := range ids {
			if got := h.suspends(id); got != "com.a" {
				t.Errorf("%s has suspended %q", id, got)
			}
		}
		if len(h.execs) != len(ids) {
			t.Errorf("told %d times, want %d", len(h.execs), len(ids))
		}
	})
}
