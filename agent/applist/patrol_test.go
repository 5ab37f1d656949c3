package applist

import (
	"slices"
	"testing"
	"time"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/netpolicy/applist"
)

// TestPatrol has an app that is denied slip past the kernel: where that can be it is ended within a patrol, and where it cannot nothing is looked at.
func TestPatrol(t *testing.T) {
	for _, test := range []struct {
		name   string
		status Status
		ended  bool
	}{
		{"refused", Status{Tier: "A", Mechanism: "lsm", Install: true, Launch: true, Network: true}, false},
		{"killed", Status{Tier: "C", Mechanism: "kill", Launch: true, Network: true}, true},
		{"not refused", Status{Tier: "D", Network: true}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *host) {
				h.k.edit(func() { h.k.status = test.status })
				l := h.begin()
				defer l.end()
				l.put("games", applist.Deny, "com.a")
				l.create("p1", "games")
				h.installs("p1", launcher, "com.a 10002", "com.b 10003")
				l.on("p1")
				dir := h.cgroup("p1").Dir
				h.k.edit(func() { h.k.runs[dir] = map[uint32]int{10002: 2, 10003: 1} })
				for began := time.Now(); time.Since(began) < patrolTime; {
					l.still()
				}
				h.k.edit(func() {
					if left := h.k.runs[dir]; (left[10002] == 0) != test.ended || left[10003] != 1 {
						t.Errorf("after a patrol there run %v", left)
					}
				})
				want := []string{"p1 app_list=games count=2 kind=stopped packages=com.a"}
				if !test.ended {
					want = nil
				}
				got := l.events(event.AppDenied)
				if !slices.Equal(got, want) {
					t.Errorf("told %q, want %q", got, want)
				}
			})
		})
	}
}
