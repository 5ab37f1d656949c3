package api

import (
	"context"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/phonehost/phonehost/agent/applist"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
	applists "github.com/phonehost/phonehost/netpolicy/applist"
	"github.com/phonehost/phonehost/netpolicy/packages"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/image/preinstalled"
)

// guard is the kernel's side of lists of apps of a host in memory, and its guests, as far as AppListService needs them. The table of every guest's
// packages is table.
type guard struct {
	w      *phonetest.World
	events chan uint32

	mu       sync.Mutex
	status   applist.Status
	rules    map[uint64]applist.Rules
	refusals []applist.Refusal
	table    *packages.Table
}

func newGuard(w *phonetest.World) *guard {
	return &guard{
		w: w, events: make(chan uint32), rules: map[uint64]applist.Rules{},
		status: applist.Status{Tier: "C", Mechanism: "kill", Launch: true, Network: true, Why: []string{"no lsm"}, Checked: time.Unix(1e9, 0)},
	}
}

// open has a host keep lists of apps, and its phones be on them.
func (g *guard) open(t testing.TB, cfg *phone.Config) *applist.Manager {
	t.Helper()
	m, err := applist.Open(applist.Config{DB: cfg.DB, Journal: cfg.Journal, Enforcer: g, Guests: g, Packages: g, Images: imageApps{}, Logger: cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	cfg.AppLists, cfg.CheckAppList = m, m.CheckAssign
	return m
}

// imageApps are of images that are all known, and have a launcher.
type imageApps struct{}

func (imageApps) Packages(string) (preinstalled.Packages, error) {
	return preinstalled.Packages{Names: map[string]bool{"com.android.launcher": true}}, nil
}

func (imageApps) Await(context.Context, string) error { return nil }

func (g *guard) Status() applist.Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.status
}

func (g *guard) SetPhone(cgroup uint64, r applist.Rules) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rules[cgroup] = r
	return nil
}

func (g *guard) RemovePhone(cgroup uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.rules, cgroup)
	return nil
}

func (g *guard) Phones() map[uint64]uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	slots := map[uint64]uint32{}
	for cgroup, r := range g.rules {
		slots[cgroup] = r.Slot
	}
	return slots
}

func (g *guard) Kill(context.Context, string, func(uint32) bool) (int, error) { return 0, nil }

func (g *guard) DrainDenials(_ uint32, report func([]applist.Refusal) error) error {
	g.mu.Lock()
	some := g.refusals
	g.refusals = nil
	g.mu.Unlock()
	if len(some) == 0 {
		return nil
	}
	return report(some)
}

func (g *guard) Events(ctx context.Context) iter.Seq2[uint32, error] {
	return func(yield func(uint32, error) bool) {
		for {
			select {
			case slot := <-g.events:
				if !yield(slot, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func (g *guard) Cgroup(id string) (applist.Cgroup, error) {
	g.w.Lock()
	defer g.w.Unlock()
	if g.w.Bodies[id] == nil {
		return applist.Cgroup{}, errdefs.ErrNotFound
	}
	return applist.Cgroup{ID: uint64(len(id)), Dir: id}, nil
}

func (g *guard) Root(context.Context, string) (*os.File, error) { return os.Open(os.DevNull) }

func (g *guard) Exec(context.Context, string, container.ExecOptions) (uint32, error) { return 0, nil }

// Follow gives the table once.
func (g *guard) Follow(ctx context.Context, root *os.File) <-chan packages.Update {
	root.Close()
	g.mu.Lock()
	table := g.table
	g.mu.Unlock()
	updates := make(chan packages.Update)
	go func() {
		defer close(updates)
		if table != nil {
			select {
			case updates <- packages.Update{Table: table}:
			case <-ctx.Done():
			}
		}
		<-ctx.Done()
	}()
	return updates
}

// installed makes the table of the guests that start from now on: "NAME APPID INSTALLER" each.
func (g *guard) installed(t *testing.T, lines ...string) {
	t.Helper()
	var text strings.Builder
	for _, line := range lines {
		words := strings.Fields(line)
		fmt.Fprintf(&text, "%s %s 0 null none none 0 0 0 %s\n", words[0], words[1], words[2])
	}
	table, err := packages.Parse(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.table = table
}

// putList puts a list.
func (s *server) putList(t *testing.T, q *phonehostv1.PutAppListRequest) *phonehostv1.PutAppListResponse {
	t.Helper()
	answer, err := s.lists.PutAppList(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// awaitList waits until a phone's list is what want says.
func (s *server) awaitList(t *testing.T, id string, want func(*phonehostv1.AppListState) bool) {
	t.Helper()
	watch, err := s.phones.Watch(t.Context(), &phonehostv1.WatchRequest{PhoneIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p := m.GetPhone(); p != nil && want(p.GetAppList()) {
			return
		}
	}
}

func TestAppLists(t *testing.T) {
	s := start(t)
	s.guard.installed(t, "com.android.launcher 10001 @system", "com.a 10002 @null", "com.b 10003 @null")
	put := s.putList(t, &phonehostv1.PutAppListRequest{
		Name: "games", Mode: phonehostv1.AppListMode_APP_LIST_MODE_DENY, Description: "no games", Packages: []string{"com.a", "com.x.*"},
	})
	want := &phonehostv1.AppList{
		Name: "games", Mode: phonehostv1.AppListMode_APP_LIST_MODE_DENY, Description: "no games", Packages: []string{"com.a", "com.x.*"}, PackageCount: 2,
		Enabled: true, Generation: 1, UpdatedBy: "uid/0",
	}
	times := protocmp.IgnoreFields(&phonehostv1.AppList{}, "update_time")
	if diff := cmp.Diff(want, put.GetAppList(), protocmp.Transform(), times); diff != "" {
		t.Errorf("put (-want +got):\n%s", diff)
	}
	if remarks := put.GetRemarks(); len(remarks) != 1 || remarks[0] != "this host's kernel (tier C) does not refuse installations" {
		t.Errorf("put where a part of it is not enforced: %q", remarks)
	}
	empty := s.putList(t, &phonehostv1.PutAppListRequest{Name: "none", Mode: phonehostv1.AppListMode_APP_LIST_MODE_ALLOW, Enabled: new(false)})
	if empty.GetAppList().GetEnabled() || len(empty.GetRemarks()) != 1 || !strings.Contains(empty.GetRemarks()[0], "allows no app") {
		t.Errorf("an empty allow list: %v", empty)
	}
	s.on(t, "p1")
	if p, err := s.phones.GetPhone(t.Context(), &phonehostv1.GetPhoneRequest{PhoneId: "p1"}); err != nil || p.GetPhone().GetAppList() != nil {
		t.Errorf("a phone on no list: %v %v", p.GetPhone().GetAppList(), err)
	}
	assigned, err := s.lists.AssignAppList(t.Context(), &phonehostv1.AssignAppListRequest{AppList: "games", PhoneIds: []string{"p1", "p2"}})
	if err != nil || assigned.GetResults()[0].GetFailure() != nil || assigned.GetResults()[1].GetFailure().GetReason() != "NO_SUCH_PHONE" {
		t.Errorf("assign: %v %v", assigned, err)
	}
	s.awaitList(t, "p1", func(state *phonehostv1.AppListState) bool {
		return state.GetInForce() && state.GetComplete() && state.GetDeniedApps() == 1 && strings.Contains(state.GetProblem(), "installations")
	})
	if p, err := s.phones.GetPhone(t.Context(), &phonehostv1.GetPhoneRequest{PhoneId: "p1"}); err != nil || p.GetPhone().GetSpec().GetAppList() != "games" {
		t.Errorf("%v %v", p, err)
	}
	changed, err := s.lists.ChangeAppList(t.Context(), &phonehostv1.ChangeAppListRequest{Name: "games", AddPackages: []string{"com.b"}, RemovePackages: []string{"com.x.*"}})
	if err != nil || !slices.Equal(changed.GetAppList().GetPackages(), []string{"com.a", "com.b"}) || changed.GetAppList().GetPhones() != 1 || changed.GetAppList().GetGeneration() != 2 {
		t.Errorf("change: %v %v", changed, err)
	}
	s.awaitList(t, "p1", func(state *phonehostv1.AppListState) bool { return state.GetDeniedApps() == 2 })
	got, err := s.lists.GetAppList(t.Context(), &phonehostv1.GetAppListRequest{Name: "games"})
	if err != nil || !slices.Equal(got.GetPhoneIds(), []string{"p1"}) || len(got.GetAppList().GetPackages()) != 2 {
		t.Errorf("get: %v %v", got, err)
	}
	all, err := s.lists.ListAppLists(t.Context(), &phonehostv1.ListAppListsRequest{})
	if err != nil || len(all.GetAppLists()) != 2 || all.GetAppLists()[0].GetPackages() != nil || all.GetAppLists()[0].GetPackageCount() != 2 {
		t.Errorf("list: %v %v", all, err)
	}
	if e := all.GetEnforcement(); e.GetTier() != "C" || e.GetInstall() || !e.GetLaunch() || !e.GetNetwork() || e.GetWhy()[0] != "no lsm" || e.GetCheckTime().GetSeconds() != 1e9 {
		t.Errorf("enforcement: %v", e)
	}
	check, err := s.lists.CheckApp(t.Context(), &phonehostv1.CheckAppRequest{PhoneId: "p1", Package: "com.a"})
	if err != nil || check.GetAppList() != "games" || check.GetEntry() != "com.a" || !check.GetInstalled() || check.GetAppId() != 10002 {
		t.Errorf("check: %v %v", check, err)
	}
	if i, l := check.GetInstall(), check.GetLaunch(); !i.GetDenied() || i.GetEnforced() || !l.GetDenied() || !l.GetEnforced() || l.GetRule() != "listed" || l.GetText() == "" {
		t.Errorf("check: %v %v", i, l)
	}
	deleted, err := s.lists.DeleteAppLists(t.Context(), &phonehostv1.DeleteAppListsRequest{Names: []string{"none", "games", "nothing"}})
	if err != nil || deleted.GetResults()[0].GetFailure() != nil || deleted.GetResults()[1].GetFailure().GetReason() != applist.InUse || deleted.GetResults()[2].GetFailure().GetReason() != "NO_SUCH_APP_LIST" {
		t.Errorf("delete: %v %v", deleted, err)
	}
	unassigned, err := s.lists.UnassignAppList(t.Context(), &phonehostv1.UnassignAppListRequest{PhoneIds: []string{"p1", "p3"}})
	if err != nil || unassigned.GetResults()[0].GetFailure() != nil || unassigned.GetResults()[1].GetFailure().GetReason() != "NO_SUCH_PHONE" {
		t.Errorf("unassign: %v %v", unassigned, err)
	}
	if n := len(s.guard.Phones()); n != 0 {
		t.Errorf("%d phones have rules", n)
	}
}

func TestAppListErrors(t *testing.T) {
	s := start(t)
	s.create(t, "p1")
	s.putList(t, &phonehostv1.PutAppListRequest{Name: "games", Mode: phonehostv1.AppListMode_APP_LIST_MODE_DENY})
	ctx := t.Context()
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprint("p", i)
	}
	deny := phonehostv1.AppListMode_APP_LIST_MODE_DENY
	for name, tt := range map[string]struct {
		call func() error
		want refusal
	}{
		"put without a mode": {func() error {
			_, err := s.lists.PutAppList(ctx, &phonehostv1.PutAppListRequest{Name: "x"})
			return err
		}, refusal{codes.InvalidArgument, "INVALID_FIELD", "mode"}},
		"put of a mode that is none": {func() error {
			_, err := s.lists.PutAppList(ctx, &phonehostv1.PutAppListRequest{Name: "x", Mode: 257})
			return err
		}, refusal{codes.InvalidArgument, "INVALID_FIELD", "mode"}},
		"put of a mode below all": {func() error {
			_, err := s.lists.PutAppList(ctx, &phonehostv1.PutAppListRequest{Name: "x", Mode: -255})
			return err
		}, refusal{codes.InvalidArgument, "INVALID_FIELD", "mode"}},
		"put of no package": {func() error {
			_, err := s.lists.PutAppList(ctx, &phonehostv1.PutAppListRequest{Name: "x", Mode: deny, Packages: []string{"x"}})
			return err
		}, refusal{codes.InvalidArgument, "INVALID_FIELD", "packages"}},
		"put strict": {func() error {
			_, err := s.lists.PutAppList(ctx, &phonehostv1.PutAppListRequest{Name: "x", Mode: deny, Strict: true})
			return err
		}, refusal{codes.FailedPrecondition, applist.StrictNotKept, ""}},
		"change of none": {func() error {
			_, err := s.lists.ChangeAppList(ctx, &phonehostv1.ChangeAppListRequest{Name: "x", Enabled: new(true)})
			return err
		}, refusal{codes.NotFound, "NO_SUCH_APP_LIST", ""}},
		"get of none": {func() error {
			_, err := s.lists.GetAppList(ctx, &phonehostv1.GetAppListRequest{Name: "x"})
			return err
		}, refusal{codes.NotFound, "NO_SUCH_APP_LIST", ""}},
		"delete of nothing": {func() error {
			_, err := s.lists.DeleteAppLists(ctx, &phonehostv1.DeleteAppListsRequest{})
			return err
		}, refusal{codes.InvalidArgument, "INVALID_FIELD", "names"}},
		"assign of none": {func() error {
			_, err := s.lists.AssignAppList(ctx, &phonehostv1.AssignAppListRequest{AppList: "x", PhoneIds: []string{"p1"}})
			return err
		}, refusal{codes.NotFound, "NO_SUCH_APP_LIST", ""}},
		"assign to many": {func() error {
			_, err := s.lists.AssignAppList(ctx, &phonehostv1.AssignAppListRequest{AppList: "games", PhoneIds: many[:101]})
			return err
		}, refusal{codes.InvalidArgument, "INVALID_FIELD", "phone_ids"}},
		"unassign of nobody": {func() error {
			_, err := s.lists.UnassignAppList(ctx, &phonehostv1.UnassignAppListRequest{})
			return err
		}, refusal{codes.InvalidArgument, "INVALID_FIELD", "phone_ids"}},
		"check of nobody": {func() error {
			_, err := s.lists.CheckApp(ctx, &phonehostv1.CheckAppRequest{PhoneId: "x", Package: "com.a"})
			return err
		}, refusal{codes.NotFound, "NO_SUCH_PHONE", ""}},
		"check of no package": {func() error {
			_, err := s.lists.CheckApp(ctx, &phonehostv1.CheckAppRequest{PhoneId: "p1", Package: "com.*"})
			return err
		}, refusal{codes.InvalidArgument, "INVALID_FIELD", "package"}},
		"watch of many": {func() error {
			call, err := s.lists.WatchAppDenials(ctx, &phonehostv1.WatchAppDenialsRequest{PhoneIds: many})
			if err == nil {
				_, err = call.Recv()
			}
			return err
		}, refusal{codes.InvalidArgument, "INVALID_FIELD", "phone_ids"}},
		"create on none": {func() error {
			_, err := s.phones.CreatePhone(ctx, &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{Id: "p2", Image: "testphone", MemoryBytes: 1 << 28, AppList: "x"}})
			return err
		}, refusal{codes.NotFound, "NO_SUCH_APP_LIST", ""}},
	} {
		if got := readError(t, tt.call()); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}

func TestWatchAppDenials(t *testing.T) {
	s := start(t)
	s.guard.installed(t, "com.a 10002 @null")
	s.putList(t, &phonehostv1.PutAppListRequest{Name: "games", Mode: phonehostv1.AppListMode_APP_LIST_MODE_DENY, Packages: []string{"com.a"}})
	s.on(t, "p1")
	if _, err := s.lists.AssignAppList(t.Context(), &phonehostv1.AssignAppListRequest{AppList: "games", PhoneIds: []string{"p1"}}); err != nil {
		t.Fatal(err)
	}
	s.awaitList(t, "p1", func(state *phonehostv1.AppListState) bool { return state.GetDeniedApps() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch, err := s.lists.WatchAppDenials(ctx, &phonehostv1.WatchAppDenialsRequest{PhoneIds: []string{"p1"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1e9, 0)
	s.guard.mu.Lock()
	s.guard.refusals = []applist.Refusal{{Kind: applist.Launch, UID: 1010002, Count: 3, First: at, Last: at.Add(time.Second)}}
	s.guard.mu.Unlock()
	s.guard.events <- 0
	m, err := watch.Recv()
	if err != nil {
		t.Fatal(err)
	}
	want := &phonehostv1.AppDenial{
		PhoneId: "p1", Kind: phonehostv1.AppDenialKind_APP_DENIAL_KIND_LAUNCH, Packages: []string{"com.a"}, Uid: 1010002, Count: 3,
		FirstTime: timestamp(at), LastTime: timestamp(at.Add(time.Second)), AppList: "games",
	}
	if diff := cmp.Diff([]*phonehostv1.AppDenial{want}, m.GetDenials(), protocmp.Transform()); diff != "" {
		t.Errorf("denials (-want +got):\n%s", diff)
	}
	s.api.Drain() // which ends it
	if _, err := watch.Recv(); readError(t, err).Reason != "SHUTTING_DOWN" {
		t.Errorf("%v", err)
	}
}

// TestAppListNumbers compares the numbers of the API with those that are stored and enforced.
func TestAppListNumbers(t *testing.T) {
	for mode, name := range map[applists.Mode]string{applists.Deny: "DENY", applists.Allow: "ALLOW"} {
		if got := phonehostv1.AppListMode(mode).String(); got != "APP_LIST_MODE_"+name {
			t.Errorf("%v is %s", mode, got)
		}
	}
	for kind := applist.Install; kind <= applist.Stopped; kind++ {
		if got := phonehostv1.AppDenialKind(kind).String(); got != "APP_DENIAL_KIND_"+strings.ToUpper(kind.String()) {
			t.Errorf("%v is %s", kind, got)
		}
	}
	if n := phonehostv1.AppDenialKind(0).Descriptor().Values().Len(); n != int(applist.Stopped)+1 {
		t.Errorf("the API has %d kinds", n)
	}
}
