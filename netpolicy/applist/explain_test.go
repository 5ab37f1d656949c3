package applist_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/netpolicy/applist"
)

// TestExplain asks for each reason that there is.
func TestExplain(t *testing.T) {
	disabled := list(applist.Deny, "com.a")
	disabled.Enabled = false
	for name, tt := range map[string]struct {
		list    *applist.List
		pkg     string
		first   bool // no table has been read yet
		install applist.Answer
		run     applist.Answer
		sharing []string
	}{
		"no list": {
			pkg:     "com.a",
			install: applist.Answer{Rule: applist.Unrestricted, Why: "the phone is on no list"},
			run:     applist.Answer{Rule: applist.Unrestricted, Why: "the phone is on no list"},
		},
		"disabled": {
			list: &disabled, pkg: "com.a", first: true,
			install: applist.Answer{Rule: applist.Unrestricted, Why: `the list "school" is disabled`},
			run:     applist.Answer{Rule: applist.Unrestricted, Why: `the list "school" is disabled`},
		},
		"denied": {
			list: listed(applist.Deny, "com.a"), pkg: "com.a",
			install: applist.Answer{Deny: true, Rule: applist.Listed, Why: `the deny list "school" has com.a`},
			run:     applist.Answer{Deny: true, Rule: applist.Listed, Why: `the deny list "school" has com.a`},
		},
		"not denied": {
			list: listed(applist.Deny, "com.b.*"), pkg: "com.a",
			install: applist.Answer{Rule: applist.Unlisted, Why: `no entry of the deny list "school" stands for it`},
			run:     applist.Answer{Rule: applist.Unlisted, Why: `no entry of the deny list "school" stands for it`},
		},
		"allowed by a pattern": {
			list: listed(applist.Allow, "com.*"), pkg: "com.c",
			install: applist.Answer{Rule: applist.Listed, Why: `the allow list "school" has com.*`},
			run:     applist.Answer{Rule: applist.Listed, Why: `the allow list "school" has com.*`},
		},
		"not allowed": {
			list: listed(applist.Allow, "com.a"), pkg: "com.c",
			install: applist.Answer{Deny: true, Rule: applist.Unlisted, Why: `no entry of the allow list "school" stands for it`},
			run:     applist.Answer{Deny: true, Rule: applist.Unlisted, Why: `no entry of the allow list "school" stands for it`},
		},
		"of the image": {
			list: listed(applist.Allow), pkg: "com.android.launcher",
			install: applist.Answer{Rule: applist.Preinstalled, Why: "it came with the phone's image"},
			run:     applist.Answer{Rule: applist.Preinstalled, Why: "it came with the phone's image"},
		},
		"of the system": {
			list: listed(applist.Deny, "com.android.settings"), pkg: "com.android.settings", sharing: []string{"android", "com.sideloaded"},
			install: applist.Answer{Deny: true, Rule: applist.Listed, Why: `has com.android.settings`},
			run:     applist.Answer{Rule: applist.SystemID, Why: `its app id, 1000, is the system's own and is not denied, though the deny list "school" has com.android.settings`},
		},
		"denied with another": {
			list: listed(applist.Deny, "com.b"), pkg: "com.b.helper", sharing: []string{"com.b"},
			install: applist.Answer{Rule: applist.Unlisted, Why: "no entry"},
			run:     applist.Answer{Deny: true, Rule: applist.SharedDenied, Why: "it shares the app id 10101 with com.b, which the list denies"},
		},
		"spared for the image": {
			list: listed(applist.Allow), pkg: "com.vendor.addon", sharing: []string{"com.vendor.core"},
			install: applist.Answer{Deny: true, Rule: applist.Unlisted, Why: "no entry"},
			run: applist.Answer{Rule: applist.SharedPreinstalled,
				Why: `it shares the app id 10002 with com.vendor.core, which came with the image and is not denied, though no entry of the allow list "school" stands for it`},
		},
		"not installed and denied": {
			list: listed(applist.Deny, "com.x"), pkg: "com.x",
			install: applist.Answer{Deny: true, Rule: applist.Listed, Why: "has com.x"},
			run:     applist.Answer{Deny: true, Rule: applist.NotInstalled, Why: "it is not in the phone's list of packages, and is denied as soon as it is: the deny list"},
		},
		"not installed and not denied": {
			list: listed(applist.Deny), pkg: "com.x",
			install: applist.Answer{Rule: applist.Unlisted, Why: "no entry"},
			run:     applist.Answer{Rule: applist.NotInstalled, Why: "it is not in the phone's list of packages, and is allowed then and now: no entry"},
		},
		"not installed and allowed": {
			list: listed(applist.Allow, "com.x"), pkg: "com.x",
			install: applist.Answer{Rule: applist.Listed, Why: "has com.x"},
			run:     applist.Answer{Rule: applist.NotInstalled, Why: "it is not in the phone's list of packages, and is allowed as soon as it is: the allow list"},
		},
		"not installed and not allowed": {
			list: listed(applist.Allow), pkg: "com.x",
			install: applist.Answer{Deny: true, Rule: applist.Unlisted, Why: "no entry"},
			run:     applist.Answer{Deny: true, Rule: applist.NotInstalled, Why: "it is not in the phone's list of packages, and is denied then and now: no entry"},
		},
		"first boot": {
			list: listed(applist.Allow), pkg: "com.x", first: true,
			install: applist.Answer{Deny: true, Rule: applist.Unlisted, Why: "no entry"},
			run: applist.Answer{Rule: applist.NoTable,
				Why: "no list of the phone's packages has been read since it got its data, and till then no app is told from another; after that it is denied: no entry"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := applist.Phone{Preinstalled: image}
			if !tt.first {
				p.Table = phone(t)
			}
			e := applist.Explain(tt.list, p, tt.pkg)
			for _, a := range []struct {
				what      string
				got, want applist.Answer
			}{{"install", e.Install, tt.install}, {"launch", e.Launch, tt.run}, {"network", e.Network, tt.run}} {
				if !strings.Contains(a.got.Why, a.want.Why) || a.got.Deny != a.want.Deny || a.got.Rule != a.want.Rule {
					t.Errorf("%s: %+v (%v)\nwant %+v (%v)", a.what, a.got, a.got.Rule, a.want, a.want.Rule)
				}
			}
			if diff := cmp.Diff(tt.sharing, e.Sharing); diff != "" || e.Package != tt.pkg || e.Preinstalled != image[tt.pkg] {
				t.Errorf("%+v\n%s", e, diff)
			}
		})
	}
}

func listed(mode applist.Mode, entries ...string) *applist.List {
	l := list(mode, entries...)
	return &l
}

func TestExplainFacts(t *testing.T) {
	e := applist.Explain(listed(applist.Deny, "com.android.*"), applist.Phone{Preinstalled: image, Table: phone(t)}, "com.android.launcher")
	if !e.Installed || !e.Preinstalled || e.AppID != 10001 || e.Entry != "com.android.*" || e.Sharing != nil {
		t.Errorf("%+v", e)
	}
}
