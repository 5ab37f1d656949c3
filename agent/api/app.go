package api

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/app"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/apk"
)

// AppConfig is what AppService works with. All fields are required.
type AppConfig struct {
	Apps *app.Manager
	Jobs *job.Runner
}

// NewAppServer returns the AppService.
func NewAppServer(cfg AppConfig) phonehostv1.AppServiceServer { return &appServer{cfg: cfg} }

type appServer struct {
	phonehostv1.UnimplementedAppServiceServer
	cfg AppConfig
}

type installStream = grpc.ClientStreamingServer[phonehostv1.InstallAppRequest, phonehostv1.InstallAppResponse]

func (s *appServer) InstallApp(call installStream) error {
	first, err := call.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return statusError(err)
	}
	start := first.GetStart()
	if start == nil {
		return statusError(fault.Field("start", "must be what the first message carries"))
	}
	if err := operation.CheckIDs(start.GetPhoneIds(), phone.MaxPhones); err != nil {
		return statusError(err) // before gigabytes are received in vain
	}
	set, err := s.receive(call, start)
	if err != nil {
		return statusError(err)
	}
	options := app.Options{Downgrade: start.GetAllowDowngrade(), Grant: start.GetGrantPermissions(), TestOnly: start.GetAllowTestOnly()}
	payload, fingerprint := app.InstallPayload(set, options)
	op, begun, err := s.cfg.Jobs.Submit(job.Request{
		Kind: operation.InstallApp, IDs: start.GetPhoneIds(), Payload: payload, Fingerprint: fingerprint,
		RequestID: start.GetRequestId(), RequestedBy: caller(call.Context()),
	})
	if !begun {
		err = errors.Join(err, s.cfg.Apps.Spool.Remove(set))
	}
	if err != nil {
		return statusError(err)
	}
	return call.SendAndClose(&phonehostv1.InstallAppResponse{Operation: operationToProto(op), App: appToProto(set.App)})
}

// receive keeps the APKs that a caller sends.
func (s *appServer) receive(call installStream, start *phonehostv1.InstallAppStart) (app.Set, error) {
	files := make([]app.File, len(start.GetApks()))
	for i, f := range start.GetApks() {
		files[i] = app.File{Size: f.GetSizeBytes(), SHA256: f.GetSha256()}
	}
	return s.cfg.Apps.Spool.Receive(call.Context(), files, &chunks{next: func() ([]byte, error) {
		m, err := call.Recv()
		if err != nil {
			return nil, err
		}
		if m.GetStart() != nil {
			return nil, fault.Field("start", "is for the first message only")
		}
		return m.GetChunk(), nil
	}})
}

func appToProto(i *apk.Info) *phonehostv1.App {
	m := &phonehostv1.App{
		Package: i.Package, VersionCode: i.VersionCode, VersionName: i.VersionName, Label: i.Label, MinSdk: uint32(max(i.MinSDK, 0)), Abis: i.ABIs,
	}
	for _, scheme := range i.Schemes() {
		m.SignatureSchemes = append(m.SignatureSchemes, string(scheme))
	}
	return m
}

// manage submits an operation on an app that is there.
func (s *appServer) manage(ctx context.Context, kind operation.Kind, pkg string, keepData bool, q powerRequest) (*phonehostv1.Operation, error) {
	if err := app.CheckPackage(pkg); err != nil {
		return nil, statusError(err)
	}
	op, _, err := s.cfg.Jobs.Submit(job.Request{
		Kind: kind, IDs: q.GetPhoneIds(), Payload: app.Payload(pkg, keepData), RequestID: q.GetRequestId(), RequestedBy: caller(ctx),
	})
	if err != nil {
		return nil, statusError(err)
	}
	return operationToProto(op), nil
}

func (s *appServer) UninstallApp(ctx context.Context, q *phonehostv1.UninstallAppRequest) (*phonehostv1.UninstallAppResponse, error) {
	op, err := s.manage(ctx, operation.UninstallApp, q.GetPackage(), q.GetKeepData(), q)
	return &phonehostv1.UninstallAppResponse{Operation: op}, err
}

func (s *appServer) StartApp(ctx context.Context, q *phonehostv1.StartAppRequest) (*phonehostv1.StartAppResponse, error) {
	op, err := s.manage(ctx, operation.StartApp, q.GetPackage(), false, q)
	return &phonehostv1.StartAppResponse{Operation: op}, err
}

func (s *appServer) StopApp(ctx context.Context, q *phonehostv1.StopAppRequest) (*phonehostv1.StopAppResponse, error) {
	op, err := s.manage(ctx, operation.StopApp, q.GetPackage(), false, q)
	return &phonehostv1.StopAppResponse{Operation: op}, err
}

func (s *appServer) ListApps(ctx context.Context, q *phonehostv1.ListAppsRequest) (*phonehostv1.ListAppsResponse, error) {
	scope := app.Scope(q.GetScope())
	if scope == 0 {
		scope = app.ThirdParty
	}
	if scope < app.ThirdParty || scope > app.All {
		return nil, statusError(fault.Field("scope", "%d is not a scope", q.GetScope()))
	}
	if _, err := job.Running(s.cfg.Apps.Phones, q.GetPhoneId()); err != nil {
		return nil, statusError(err)
	}
	release, err := s.cfg.Jobs.Turn(ctx, q.GetPhoneId())
	if err != nil {
		return nil, statusError(err)
	}
	defer release()
	apps, err := s.cfg.Apps.List(ctx, q.GetPhoneId(), scope)
	if err != nil {
		return nil, statusError(fmt.Errorf("apps of %s: %w", q.GetPhoneId(), err))
	}
	answer := new(phonehostv1.ListAppsResponse)
	for _, a := range apps {
		answer.Apps = append(answer.Apps, &phonehostv1.InstalledApp{Package: a.Package, VersionCode: a.VersionCode, Uid: a.UID, Path: a.Path, System: a.System})
	}
	return answer, nil
}
