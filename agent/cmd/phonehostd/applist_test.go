package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/applist"
	"github.com/phonehost/phonehost/netpolicy/appguard"
	applists "github.com/phonehost/phonehost/netpolicy/applist"
)

// TestPhoneApps: the kernel gets each part of the rules as they are.
func TestPhoneApps(t *testing.T) {
	rules := applist.Rules{
		Slot: 7,
		Names: applists.Names{UnlistedDeny: true, Entries: []applists.Entry{
			{Name: "com.example.", Prefix: true}, {Name: "com.example.game", Deny: true},
		}},
		Apps: applists.Apps{UnknownDeny: true, Verdicts: map[uint32]applists.Verdict{
			10001: 0, 10002: applists.RunDeny | applists.NetDeny, 10003: applists.RunDeny, 10004: applists.NetDeny,
		}},
	}
	want := appguard.Phone{
		Slot: 7, UnlistedDeny: true, UnknownDeny: true,
		Names: []appguard.Name{{Name: "com.example.", Prefix: true}, {Name: "com.example.game", Deny: true}},
		Apps:  map[uint32]appguard.Bits{10001: 0, 10002: appguard.DenyRun | appguard.DenyNetwork, 10003: appguard.DenyRun, 10004: appguard.DenyNetwork},
	}
	if diff := cmp.Diff(want, phoneApps(rules)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	isolated := applist.Rules{Apps: applists.Apps{IsolatedDeny: true}}
	if got := phoneApps(isolated); !got.IsolatedDeny || got.UnknownDeny || got.UnlistedDeny {
		t.Errorf("isolated processes alone are denied, and the kernel gets %+v", got)
	}
}

// TestAppStatus: what was shown counts, and where that is nothing there is no tier.
func TestAppStatus(t *testing.T) {
	got := appStatus(appguard.Status{Mechanism: appguard.MechanismKill, Tier: appguard.TierC, Shown: appguard.Shown{Launch: true, Network: true}, Why: []string{"lsm: no"}})
	want := applist.Status{Tier: "C", Mechanism: "kill", Launch: true, Network: true, Why: []string{"lsm: no"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := appStatus(appguard.Status{Mechanism: appguard.MechanismNone, Tier: appguard.TierD}); got.Tier != "" || got.Mechanism != "" {
		t.Errorf("nothing was shown, and it is %+v", got)
	}
}

// TestRefusals: refusals add up by kind, and none is there before the first.
func TestRefusals(t *testing.T) {
	var r refusals
	if all := r.totals(); len(all) != 0 {
		t.Errorf("before any refusal there are %v", all)
	}
	r.add([]applist.Refusal{{Kind: applist.Launch, Count: 3}, {Kind: applist.Network, Count: 1, Unlisted: true}})
	r.add([]applist.Refusal{{Kind: applist.Launch, Count: 2}})
	if diff := cmp.Diff(map[string]uint64{"launch": 5, "network": 1}, r.totals()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestGapsOfUnavailable: a host that refuses nothing says why.
func TestGapsOfUnavailable(t *testing.T) {
	status := applist.Unavailable{Err: errors.New("no cgroup v2")}.Status()
	const want = "this host's kernel (no tier) does not refuse installations, launches and the network: no cgroup v2"
	if got := status.Gaps(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestAppListWarning: there is one where lists are and are not kept, and where that could not be tried.
func TestAppListWarning(t *testing.T) {
	all := applist.Status{Tier: "A", Mechanism: "lsm", Install: true, Launch: true, Network: true}
	some := applist.Status{Tier: "D", Mechanism: "none", Network: true, Why: []string{"lsm: not obeyed"}}
	for _, tt := range []struct {
		name    string
		lists   int
		status  applist.Status
		untried error
		want    string // empty: no warning
	}{
		{"all is refused", 2, all, nil, ""},
		{"no lists", 0, some, nil, ""},
		{"the network alone", 1, some, nil, "(tier D) does not refuse installations and launches: lsm: not obeyed"},
		{"not tried", 1, all, errors.New("no processes left"), "could not be tried: no processes left"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := appListWarning(tt.lists, tt.status, tt.untried)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
