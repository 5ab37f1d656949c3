package applist_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/netpolicy/applist"
	"github.com/phonehost/phonehost/netpolicy/packages"
)

const deny = applist.RunDeny | applist.NetDeny

// table makes a table of lines "NAME ID".
func table(t testing.TB, lines ...string) *packages.Table {
	t.Helper()
	table, err := packages.Parse(strings.NewReader(strings.Join(lines, " 0 /data s none\n") + " 0 /data s none\n"))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// phone is a table with everything in it: ids of the system, one that a package of the image shares with an app, two apps that share one,
// and apps by themselves.
func phone(t testing.TB) *packages.Table {
	return table(t, "android 1000", "com.android.settings 1000", "com.sideloaded 1000",
		"com.android.launcher 10001", "com.vendor.core 10002", "com.vendor.addon 10002", "com.a 10100", "com.b 10101", "com.b.helper 10101", "com.c 10102")
}

func TestVerdicts(t *testing.T) {
	for name, tt := range map[string]struct {
		list   applist.List
		denied []uint32
		err    []string // in the error; none for none
		shared []applist.Shared
		warned []applist.Warning
	}{
		"deny nothing":   {list: list(applist.Deny)},
		"deny one":       {list: list(applist.Deny, "com.a", "com.not.there"), denied: []uint32{10100}},
		"deny the image": {list: list(applist.Deny, "com.android.launcher"), denied: []uint32{10001}},
		"deny one of two": {
			list: list(applist.Deny, "com.b"), denied: []uint32{10101},
			err:    []string{"com.b and com.b.helper have one app id, 10101: what is denied to com.b is denied to all of them", "force"},
			shared: []applist.Shared{{AppID: 10101, Denied: []string{"com.b"}, Others: []string{"com.b.helper"}}},
		},
		"deny two of two": {list: list(applist.Deny, "com.b", "com.b.*"), denied: []uint32{10101}},
		"deny what shares with the image": {
			list: list(applist.Deny, "com.vendor.addon"), denied: []uint32{10002}, err: []string{"com.vendor.addon and com.vendor.core", "10002"},
			shared: []applist.Shared{{AppID: 10002, Denied: []string{"com.vendor.addon"}, Others: []string{"com.vendor.core"}}},
		},
		"deny the system": {
			list: list(applist.Deny, "android", "com.android.*"), denied: []uint32{10001},
			warned: []applist.Warning{{Rule: applist.SystemID, AppID: 1000, Denied: []string{"android", "com.android.settings"}}},
		},
		"allow nothing": {
			list: list(applist.Allow), denied: []uint32{10100, 10101, 10102},
			warned: []applist.Warning{
				{Rule: applist.SystemID, AppID: 1000, Denied: []string{"com.sideloaded"}},
				{Rule: applist.SharedPreinstalled, AppID: 10002, Denied: []string{"com.vendor.addon"}, Others: []string{"com.vendor.core"}},
			},
		},
		"allow one of two": {
			list: list(applist.Allow, "com.a", "com.b", "com.c", "com.sideloaded", "com.vendor.*"), denied: []uint32{10101}, err: []string{"com.b.helper and com.b have"},
			shared: []applist.Shared{{AppID: 10101, Denied: []string{"com.b.helper"}, Others: []string{"com.b"}}},
		},
		"allow all": {list: list(applist.Allow, "com.*")},
		"disabled":  {list: applist.List{Name: "x", Mode: applist.Allow}},
	} {
		t.Run(name, func(t *testing.T) {
			a := applist.Verdicts(tt.list, image, phone(t))
			want := map[uint32]applist.Verdict{10001: 0, 10002: 0, 10100: 0, 10101: 0, 10102: 0}
			for _, id := range tt.denied {
				want[id] = deny
			}
			if diff := cmp.Diff(want, a.Verdicts); diff != "" {
				t.Errorf("the verdicts:\n%s", diff)
			}
			if want := name[:5] == "allow"; a.UnknownDeny != want || a.IsolatedDeny {
				t.Errorf("unknown apps are denied: %v, isolated processes: %v; want %v, false", a.UnknownDeny, a.IsolatedDeny, want)
			}
			if diff := cmp.Diff(tt.shared, a.Shared); diff != "" {
				t.Errorf("what is shared:\n%s", diff)
			}
			if diff := cmp.Diff(tt.warned, a.Warnings); diff != "" {
				t.Errorf("the warnings:\n%s", diff)
			}
			err := a.Err()
			if (err != nil) != (tt.err != nil) || err != nil && !errors.Is(err, errdefs.ErrFailedPrecondition) {
				t.Errorf("the error is %v", err)
			}
			for _, text := range tt.err {
				if err != nil && !strings.Contains(err.Error(), text) {
					t.Errorf("the error is %v; want one that says %q", err, text)
				}
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	a := applist.Verdicts(list(applist.Allow), image, phone(t))
	for i, want := range []string{
		"com.sideloaded: the app id 1000 is the system's own, so the kernel denies installation and updates only, not launch and network",
		"com.vendor.addon: the app id 10002 is also that of com.vendor.core, which came with the image, so the kernel denies installation and updates only, not launch and network",
	} {
		if got := a.Warnings[i].String(); got != want {
			t.Errorf("the warning is %q, want %q", got, want)
		}
	}
}

// TestJudge asks for uids of all kinds, and of apps that the table does not have.
func TestJudge(t *testing.T) {
	denies := applist.Verdicts(list(applist.Deny, "com.a"), image, phone(t))
	allows := applist.Verdicts(list(applist.Allow, "com.a"), image, phone(t))
	without := list(applist.Allow, "com.a")
	without.DenyIsolated = true
	isolated := applist.Verdicts(without, image, phone(t))
	if without.Enabled = false; applist.Verdicts(without, image, phone(t)).IsolatedDeny {
		t.Error("a disabled list denies isolated processes")
	}
	first := applist.Verdicts(list(applist.Allow, "com.a"), image, nil)
	for _, tt := range []struct {
		name string
		uid  uint32
		want [4]bool // is it denied: under Deny, under Allow, there without isolated processes, and before the first table
	}{
		{"root", 0, [4]bool{}},
		{"system", 1000, [4]bool{}},
		{"com.a", 10100, [4]bool{true, false, false, false}},
		{"com.a of user 10", 1010100, [4]bool{true, false, false, false}},
		{"com.a of user 999", 99910100, [4]bool{true, false, false, false}},
		{"com.a's sandbox", 20100, [4]bool{true, false, false, false}},
		{"com.a's sandbox of user 10", 1020100, [4]bool{true, false, false, false}},
		{"com.c", 10102, [4]bool{false, true, true, false}},
		{"com.c's sandbox", 20102, [4]bool{false, true, true, false}},
		{"the launcher", 10001, [4]bool{}},
		{"an app that was just installed", 10500, [4]bool{false, true, true, false}},
		{"its sandbox", 20500, [4]bool{false, true, true, false}},
		{"a group", 50100, [4]bool{}},
		{"isolated", 99000, [4]bool{false, false, true, false}},
		{"of an app zygote, of user 10", 1090001, [4]bool{false, false, true, false}},
		{"-1", 4294967295, [4]bool{}},
	} {
		for i, a := range []applist.Apps{denies, allows, isolated, first} {
			want := applist.Verdict(0)
			if tt.want[i] {
				want = deny
			}
			if got := a.Judge(tt.uid); got != want {
				t.Errorf("%s, %d: %d says the %dth, want %d", tt.name, tt.uid, got, i, want)
			}
		}
	}
	for uid, want := range map[uint32]bool{10500: true, 1010500: true, 20500: true, 10100: false, 20100: false, 1000: false, 99000: false, 50100: false} {
		if denies.Unknown(uid) != want {
			t.Errorf("%d is unknown: %v, want %v", uid, !want, want)
		}
	}
}

// TestReuse has an app id go to another package, by an uninstallation and an installation.
func TestReuse(t *testing.T) {
	l := list(applist.Deny, "com.bad")
	before := applist.Verdicts(l, nil, table(t, "android 1000", "com.bad 10100", "com.good 10101"))
	between := applist.Verdicts(l, nil, table(t, "android 1000", "com.good 10101"))
	after := applist.Verdicts(l, nil, table(t, "android 1000", "com.good 10101", "com.new 10100"))
	if before.Judge(10100) != deny || between.Judge(10100) != 0 || !between.Unknown(10100) || after.Judge(10100) != 0 || after.Unknown(10100) {
		t.Errorf("10100 is judged by %+v, %+v, %+v", before, between, after)
	}
}
