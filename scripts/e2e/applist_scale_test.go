package e2e

import (
	"fmt"
	"strings"
	"testing"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

const (
	// scalePhones is how many phones are on one list, and scalePackages how many packages it has, the most that there may be.
	scalePhones   = stormPhones
	scalePackages = 500
	// scaleApp is the app that is installed in all of them.
	scaleApp = "com.example.net"
)

// scaleList are the most packages that a list may have, of a name of their own, and if it is meant to be denied the app.
func scaleList(of string, app bool) []string {
	var packages []string
	for i := range scalePackages {
		packages = append(packages, fmt.Sprintf("com.example.%s.app%d", of, i))
	}
	if app {
		packages[scalePackages/2] = scaleApp
	}
	return packages
}

// withApp creates phones, powers them on and installs the app, and returns probes of it.
func (f *fleet) withApp(h *host, ids []string) *probes {
	f.t.Helper()
	f.create(ids)
	f.powerOn(ids)
	h.ctl(append([]string{"app", "install", netAPK(f.t, h.path("net.apk"))}, ids...)...)
	uid := 0
	for line := range strings.Lines(h.ctl("exec", ids[0], "--", "cat", "/data/system/packages.list")) {
		if rest, found := strings.CutPrefix(line, scaleApp+" "); found {
			if _, err := fmt.Sscan(rest, &uid); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	if uid == 0 {
		f.t.Fatalf("%s has not got %s", ids[0], scaleApp)
	}
	return probe(f.t, f.running(ids), uid)
}

// put puts the list "scale".
func (f *fleet) put(mode phonehostv1.AppListMode, packages []string) {
	f.t.Helper()
	if _, err := f.appLists.PutAppList(f.t.Context(), &phonehostv1.PutAppListRequest{Name: "scale", Mode: mode, Packages: packages}); err != nil {
		f.t.Fatal(err)
	}
}

// assign puts phones on the list "scale".
func (f *fleet) assign(ids []string) {
	f.t.Helper()
	answer, err := f.appLists.AssignAppList(f.t.Context(), &phonehostv1.AssignAppListRequest{AppList: "scale", PhoneIds: ids})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, r := range answer.GetResults() {
		if r.GetFailure() != nil {
			f.t.Fatalf("assign: %v", r)
		}
	}
}

// TestAppListScale has a hundred phones that run on one list of 500 packages: when a call that changes it has returned, the kernel judges by the change
// in all of them, at once when the agent is dead too, and nothing is left of it when they are gone.
func TestAppListScale(t *testing.T) {
	h := newHost(t, fmt.Sprintf("concurrent_boots = %d", stormBoots))
	const deny, allow = phonehostv1.AppListMode_APP_LIST_MODE_DENY, phonehostv1.AppListMode_APP_LIST_MODE_ALLOW
	f, ids := newFleet(h), names(scalePhones)
	apps := f.withApp(h, ids)
	apps.want("on no list", false)
	f.put(deny, scaleList("a", true))
	f.assign(ids)
	apps.want("assigned", true)
	f.put(deny, scaleList("b", false))
	apps.want("500 other packages", false)
	f.put(allow, scaleList("b", false))
	apps.want("a list that allows others", true)
	h.killAgent()
	apps.want("no agent", true)
	h.startAgent()
	f = newFleet(h)
	apps.want("another agent", true)
	for _, p := range f.running(ids) {
		if l := p.GetAppList(); !l.GetInForce() || l.GetDeniedApps() != 1 {
			t.Errorf("%s is on %v", p.GetSpec().GetId(), l)
		}
	}
	f.put(allow, scaleList("c", true))
	apps.want("allowed", false)
	f.put(deny, scaleList("d", true))
	apps.want("denied", true)
	f.remove(ids[:scalePhones/2])
	some := *apps
	some.ids, some.sockets = apps.ids[:scalePhones/2], apps.sockets[:scalePhones/2]
	some.want("sockets of phones that are gone", false)
	some.ids, some.sockets = apps.ids[scalePhones/2:], apps.sockets[scalePhones/2:]
	some.want("half of the phones are gone", true)
	if _, err := f.appLists.UnassignAppList(t.Context(), &phonehostv1.UnassignAppListRequest{PhoneIds: ids[scalePhones/2:]}); err != nil {
		t.Fatal(err)
	}
	some.want("on no list again", false)
	f.remove(ids[scalePhones/2:])
}
