package api

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/applist"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/phone"
	applists "github.com/phonehost/phonehost/netpolicy/applist"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// NewAppListServer returns the AppListService over the lists of a host.
func NewAppListServer(lists *applist.Manager) phonehostv1.AppListServiceServer {
	return &appListServer{lists: lists}
}

type appListServer struct {
	phonehostv1.UnimplementedAppListServiceServer
	lists *applist.Manager
}

func (s *appListServer) PutAppList(ctx context.Context, q *phonehostv1.PutAppListRequest) (*phonehostv1.PutAppListResponse, error) {
	l, remarks, err := s.lists.Change(ctx, q.GetName(), applist.Edit{
		Put: &applists.List{
			Mode: appListMode(q.GetMode()), Description: q.GetDescription(), Packages: q.GetPackages(), Strict: q.GetStrict(),
			DenyIsolated: q.GetDenyIsolated(),
		},
		Enabled: q.Enabled, Force: q.GetForce(),
	}, caller(ctx))
	if err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.PutAppListResponse{AppList: appListToProto(l, s.lists.Users()), Remarks: remarks}, nil
}

func (s *appListServer) ChangeAppList(ctx context.Context, q *phonehostv1.ChangeAppListRequest) (*phonehostv1.ChangeAppListResponse, error) {
	l, remarks, err := s.lists.Change(ctx, q.GetName(), applist.Edit{
		Add: q.GetAddPackages(), Remove: q.GetRemovePackages(), Enabled: q.Enabled, Force: q.GetForce(),
	}, caller(ctx))
	if err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.ChangeAppListResponse{AppList: appListToProto(l, s.lists.Users()), Remarks: remarks}, nil
}

func (s *appListServer) GetAppList(_ context.Context, q *phonehostv1.GetAppListRequest) (*phonehostv1.GetAppListResponse, error) {
	l, ids, err := s.lists.Get(q.GetName())
	if err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.GetAppListResponse{AppList: appListToProto(l, s.lists.Users()), PhoneIds: ids}, nil
}

func (s *appListServer) ListAppLists(context.Context, *phonehostv1.ListAppListsRequest) (*phonehostv1.ListAppListsResponse, error) {
	answer, users := &phonehostv1.ListAppListsResponse{Enforcement: enforcementToProto(s.lists.Status())}, s.lists.Users()
	for _, l := range s.lists.List() {
		m := appListToProto(l, users)
		m.Packages = nil
		answer.AppLists = append(answer.AppLists, m)
	}
	return answer, nil
}

func (s *appListServer) DeleteAppLists(ctx context.Context, q *phonehostv1.DeleteAppListsRequest) (*phonehostv1.DeleteAppListsResponse, error) {
	errs, err := s.lists.Delete(ctx, q.GetNames(), q.GetForce(), caller(ctx))
	if err != nil {
		return nil, statusError(err)
	}
	answer := &phonehostv1.DeleteAppListsResponse{}
	for i, name := range q.GetNames() {
		result := &phonehostv1.AppListResult{Name: name}
		if errs[i] != nil {
			result.Failure = failureToProto(job.Failure(0, errs[i], time.Now()))
		}
		answer.Results = append(answer.Results, result)
	}
	return answer, nil
}

func (s *appListServer) AssignAppList(ctx context.Context, q *phonehostv1.AssignAppListRequest) (*phonehostv1.AssignAppListResponse, error) {
	errs, remarks, err := s.lists.Assign(ctx, q.GetAppList(), q.GetPhoneIds(), q.GetMove(), q.GetForce(), caller(ctx))
	if err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.AssignAppListResponse{Results: phoneResults(q.GetPhoneIds(), errs), Remarks: remarks}, nil
}

func (s *appListServer) UnassignAppList(ctx context.Context, q *phonehostv1.UnassignAppListRequest) (*phonehostv1.UnassignAppListResponse, error) {
	errs, err := s.lists.Unassign(ctx, q.GetPhoneIds(), caller(ctx))
	if err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.UnassignAppListResponse{Results: phoneResults(q.GetPhoneIds(), errs)}, nil
}

// phoneResults is what became of each phone's part of a call.
func phoneResults(ids []string, errs []error) []*phonehostv1.PhoneResult {
	results := make([]*phonehostv1.PhoneResult, len(ids))
	for i, id := range ids {
		results[i] = &phonehostv1.PhoneResult{PhoneId: id}
		if errs[i] != nil {
			results[i].Failure = failureToProto(job.Failure(0, errs[i], time.Now()))
		}
	}
	return results
}

func (s *appListServer) WatchAppDenials(q *phonehostv1.WatchAppDenialsRequest, call grpc.ServerStreamingServer[phonehostv1.WatchAppDenialsResponse]) error {
	if n := len(q.GetPhoneIds()); n > maxListed {
		return statusError(tooManyIDs(n))
	}
	w := s.lists.WatchDenials(q.GetPhoneIds())
	defer w.Close()
	return follow(call, w, func(denials []applist.Denial, missed uint64) error {
		m := &phonehostv1.WatchAppDenialsResponse{Missed: missed}
		for _, d := range denials {
			m.Denials = append(m.Denials, &phonehostv1.AppDenial{
				PhoneId: d.Phone, Kind: phonehostv1.AppDenialKind(d.Kind), Packages: d.Packages, Uid: d.UID, Count: d.Count,
				FirstTime: timestamp(d.First), LastTime: timestamp(d.Last), AppList: d.AppList,
			})
		}
		return call.Send(m)
	})
}

func (s *appListServer) CheckApp(_ context.Context, q *phonehostv1.CheckAppRequest) (*phonehostv1.CheckAppResponse, error) {
	a, err := s.lists.Check(q.GetPhoneId(), q.GetPackage())
	if err != nil {
		return nil, statusError(err)
	}
	verdict := func(of applists.Answer, kept bool) *phonehostv1.AppVerdict {
		return &phonehostv1.AppVerdict{Denied: of.Deny, Enforced: of.Deny && kept && a.State.InForce, Rule: of.Rule.String(), Text: of.Why}
	}
	return &phonehostv1.CheckAppResponse{
		AppList: a.AppList, Entry: a.Entry, Preinstalled: a.Preinstalled, Installed: a.Installed, AppId: a.AppID, Sharing: a.Sharing,
		Install: verdict(a.Install, a.Status.Install), Launch: verdict(a.Launch, a.Status.Launch), Network: verdict(a.Network, a.Status.Network),
		Enforcement: enforcementToProto(a.Status), Problem: a.State.Problem,
	}, nil
}

// appListMode returns a mode as lists have it, none for what is no mode.
func appListMode(m phonehostv1.AppListMode) applists.Mode {
	switch m {
	case phonehostv1.AppListMode_APP_LIST_MODE_DENY:
		return applists.Deny
	case phonehostv1.AppListMode_APP_LIST_MODE_ALLOW:
		return applists.Allow
	}
	return 0
}

func appListToProto(l applist.List, users map[string]int) *phonehostv1.AppList {
	return &phonehostv1.AppList{
		Name: l.Name, Mode: phonehostv1.AppListMode(l.Mode), Description: l.Description, Packages: l.Packages, PackageCount: uint32(len(l.Packages)),
		Enabled: l.Enabled, Strict: l.Strict, Phones: uint32(users[l.Name]), Generation: l.Generation, UpdateTime: timestamp(l.UpdateTime),
		UpdatedBy: l.UpdatedBy, Problem: l.Problem, DenyIsolated: l.DenyIsolated,
	}
}

func enforcementToProto(s applist.Status) *phonehostv1.AppEnforcement {
	return &phonehostv1.AppEnforcement{
		Tier: s.Tier, Mechanism: s.Mechanism, Install: s.Install, Launch: s.Launch, Network: s.Network, Why: s.Why, CheckTime: timestamp(s.Checked),
	}
}

// appListState adds what became of the list that a phone is on.
func (s *phoneServer) appListState(m *phonehostv1.Phone, snap phone.Snapshot) *phonehostv1.Phone {
	if s.cfg.AppLists == nil {
		return m
	}
	if state, on := s.cfg.AppLists(snap); on {
		m.AppList = &phonehostv1.AppListState{
			InForce: state.InForce, Complete: state.Complete, DeniedApps: uint32(state.DeniedApps), Problem: state.Problem,
		}
	}
	return m
}
