package cli

import (
	"context"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// fakeAppLists is the agent's AppListService, of a host whose kernel does not refuse installations. A list that denies com.shared needs force. The
// watch sends something once, and then waits for its end.
type fakeAppLists struct {
	phonehostv1.UnimplementedAppListServiceServer
	agent *fakeAgent
}

func noAppList(name string) error {
	return refuse(codes.NotFound, fault.NoSuchAppList, nil, "no app list %q on this host", name)
}

// on names the phones that are on a list; f.mu is held.
func (f *fakeAgent) on(name string) []string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(f.phones)) {
		if f.phones[id].GetSpec().GetAppList() == name {
			ids = append(ids, id)
		}
	}
	return ids
}

// keep checks and keeps a list; f.mu is held.
func (f *fakeAgent) keep(l *phonehostv1.AppList, force bool) error {
	if l.GetStrict() && l.GetEnabled() {
		return refuse(codes.FailedPrecondition, "STRICT_NOT_KEPT", nil, "app list %q is strict, and this host's kernel (tier C) does not refuse installations", l.GetName())
	}
	if slices.Contains(l.GetPackages(), "com.shared") && !force {
		return refuse(codes.FailedPrecondition, "SHARED_UID", nil, "phone cp-1: com.shared and com.other have one app id")
	}
	l.PackageCount, l.Phones = uint32(len(l.GetPackages())), uint32(len(f.on(l.GetName())))
	l.UpdateTime, l.UpdatedBy, l.Generation = timestamppb.New(base), "uid/0", l.GetGeneration()+1
	f.lists[l.GetName()] = l
	return nil
}

func (f fakeAppLists) PutAppList(_ context.Context, in *phonehostv1.PutAppListRequest) (*phonehostv1.PutAppListResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	l := &phonehostv1.AppList{
		Name: in.GetName(), Mode: in.GetMode(), Description: in.GetDescription(), Packages: in.GetPackages(), Strict: in.GetStrict(), DenyIsolated: in.GetDenyIsolated(), Enabled: true,
	}
	if in.Enabled != nil {
		l.Enabled = in.GetEnabled()
	}
	if err := f.agent.keep(l, in.GetForce()); err != nil {
		return nil, err
	}
	answer := &phonehostv1.PutAppListResponse{AppList: l}
	if l.GetMode() == phonehostv1.AppListMode_APP_LIST_MODE_ALLOW && len(l.GetPackages()) == 0 {
		answer.Remarks = []string{"an allow list without packages allows no app but those that came with the image"}
	}
	return answer, nil
}

func (f fakeAppLists) ChangeAppList(_ context.Context, in *phonehostv1.ChangeAppListRequest) (*phonehostv1.ChangeAppListResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	l := f.agent.lists[in.GetName()]
	if l == nil {
		return nil, noAppList(in.GetName())
	}
	l.Packages = slices.DeleteFunc(append(slices.Clone(l.GetPackages()), in.GetAddPackages()...), func(p string) bool { return slices.Contains(in.GetRemovePackages(), p) })
	if in.Enabled != nil {
		l.Enabled = in.GetEnabled()
	}
	if err := f.agent.keep(l, in.GetForce()); err != nil {
		return nil, err
	}
	return &phonehostv1.ChangeAppListResponse{AppList: l}, nil
}

func (f fakeAppLists) GetAppList(_ context.Context, in *phonehostv1.GetAppListRequest) (*phonehostv1.GetAppListResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	l := f.agent.lists[in.GetName()]
	if l == nil {
		return nil, noAppList(in.GetName())
	}
	return &phonehostv1.GetAppListResponse{AppList: l, PhoneIds: f.agent.on(in.GetName())}, nil
}

func (f fakeAppLists) ListAppLists(context.Context, *phonehostv1.ListAppListsRequest) (*phonehostv1.ListAppListsResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	answer := &phonehostv1.ListAppListsResponse{Enforcement: &phonehostv1.AppEnforcement{
		Tier: "C", Mechanism: "kill", Launch: true, Network: true, Why: []string{"lsm: bpf is not in lsm="},
	}}
	for _, name := range slices.Sorted(maps.Keys(f.agent.lists)) {
		answer.AppLists = append(answer.AppLists, f.agent.lists[name])
	}
	return answer, nil
}

func (f fakeAppLists) DeleteAppLists(_ context.Context, in *phonehostv1.DeleteAppListsRequest) (*phonehostv1.DeleteAppListsResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	answer := &phonehostv1.DeleteAppListsResponse{}
	for _, name := range in.GetNames() {
		r := &phonehostv1.AppListResult{Name: name}
		switch ids := f.agent.on(name); {
		case f.agent.lists[name] == nil:
			r.Failure = &phonehostv1.Failure{Code: int32(codes.NotFound), Reason: fault.NoSuchAppList, Message: "no app list \"" + name + "\" on this host"}
		case len(ids) > 0 && !in.GetForce():
			r.Failure = &phonehostv1.Failure{Code: int32(codes.FailedPrecondition), Reason: "APP_LIST_IN_USE", Message: "app list \"" + name + "\" has phones: " + strings.Join(ids, ", ")}
		default:
			for _, id := range ids {
				f.agent.phones[id].Spec.AppList = ""
			}
			delete(f.agent.lists, name)
		}
		answer.Results = append(answer.Results, r)
	}
	return answer, nil
}

func (f fakeAppLists) AssignAppList(_ context.Context, in *phonehostv1.AssignAppListRequest) (*phonehostv1.AssignAppListResponse, error) {
	f.agent.mu.Lock()
	l := f.agent.lists[in.GetAppList()]
	f.agent.mu.Unlock()
	if l == nil {
		return nil, noAppList(in.GetAppList())
	}
	answer := &phonehostv1.AssignAppListResponse{}
	for _, id := range in.GetPhoneIds() {
		results := fakeNetworks{agent: f.agent}.each([]string{id}, func(*phonehostv1.Phone) {})
		p := f.agent.phone(id)
		if have := p.GetSpec().GetAppList(); p != nil && have != "" && have != in.GetAppList() && !in.GetMove() {
			results[0].Failure = &phonehostv1.Failure{Code: int32(codes.FailedPrecondition), Reason: fault.AppListTaken, Message: "phone " + id + " is on the app list \"" + have + "\""}
		} else if results[0].GetFailure() == nil {
			fakeNetworks{agent: f.agent}.each([]string{id}, func(p *phonehostv1.Phone) {
				p.Spec.AppList, p.AppList = in.GetAppList(), &phonehostv1.AppListState{InForce: true, Complete: true, DeniedApps: 2}
			})
		}
		answer.Results = append(answer.Results, results...)
	}
	return answer, nil
}

func (f fakeAppLists) UnassignAppList(_ context.Context, in *phonehostv1.UnassignAppListRequest) (*phonehostv1.UnassignAppListResponse, error) {
	return &phonehostv1.UnassignAppListResponse{Results: fakeNetworks{agent: f.agent}.each(in.GetPhoneIds(), func(p *phonehostv1.Phone) {
		p.Spec.AppList, p.AppList = "", nil
	})}, nil
}

func (f fakeAppLists) WatchAppDenials(_ *phonehostv1.WatchAppDenialsRequest, stream grpc.ServerStreamingServer[phonehostv1.WatchAppDenialsResponse]) error {
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	denial := &phonehostv1.AppDenial{
		PhoneId: "cp-1", Kind: phonehostv1.AppDenialKind_APP_DENIAL_KIND_NETWORK, Packages: []string{"com.a"}, Uid: 10002, Count: 4,
		FirstTime: timestamppb.New(base), LastTime: timestamppb.New(base), AppList: "games",
	}
	if err := stream.Send(&phonehostv1.WatchAppDenialsResponse{Denials: []*phonehostv1.AppDenial{denial}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// CheckApp knows com.a, which phones have, and nothing else.
func (f fakeAppLists) CheckApp(_ context.Context, in *phonehostv1.CheckAppRequest) (*phonehostv1.CheckAppResponse, error) {
	p := f.agent.phone(in.GetPhoneId())
	if p == nil {
		return nil, noPhone(in.GetPhoneId())
	}
	answer := &phonehostv1.CheckAppResponse{AppList: p.GetSpec().GetAppList()}
	answer.Install = &phonehostv1.AppVerdict{Rule: "unlisted", Text: "no entry stands for it"}
	answer.Launch, answer.Network = answer.GetInstall(), answer.GetInstall()
	if in.GetPackage() == "com.a" {
		answer.Entry, answer.Installed, answer.AppId, answer.Sharing = "com.*", true, 10002, []string{"com.b"}
		answer.Install = &phonehostv1.AppVerdict{Denied: true, Rule: "listed", Text: "the list has com.*"}
		answer.Launch = &phonehostv1.AppVerdict{Denied: true, Enforced: true, Rule: "listed", Text: "the list has com.*"}
		answer.Network = answer.GetLaunch()
		answer.Problem = "this host's kernel (tier C) does not refuse installations"
	}
	return answer, nil
}
