package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// The fake agent's events happen at base; commands in tests run three minutes later.
var (
	base    = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	testNow = base.Add(3 * time.Minute)
)

// fakeAgent serves the API from memory, by the rules that proto/phonehost/v1 states, as far as a client can see them.
// Phones whose id begins with "bad" do not boot, operations on those that begin with "stuck" do not end.
type fakeAgent struct {
	phonehostv1.UnimplementedPhoneServiceServer
	phonehostv1.UnimplementedHostServiceServer

	images  fakeImages
	streams fakeStreams
	events  fakeEvents

	socket string
	hung   chan struct{} // a value for each command that hangs

	mu       sync.Mutex
	changed  *sync.Cond // broadcast at every change of phones
	phones   map[string]*phonehostv1.Phone
	deleted  []string
	ops      []fakeOperation
	findings []*phonehostv1.Finding
	revision uint64
	policies map[string]string // texts, by name
	lists    map[string]*phonehostv1.AppList
}

// fakeOperation is an operation and what it was before, oldest first.
type fakeOperation struct {
	history []*phonehostv1.Operation
	stuck   bool
}

// fakeOperations is the agent's OperationService; its Watch is not the phones'.
type fakeOperations struct {
	phonehostv1.UnimplementedOperationServiceServer
	agent *fakeAgent
}

// newFakeAgent returns an agent without phones.
func newFakeAgent() *fakeAgent {
	f := &fakeAgent{phones: make(map[string]*phonehostv1.Phone), policies: make(map[string]string), lists: make(map[string]*phonehostv1.AppList)}
	f.changed, f.hung = sync.NewCond(&f.mu), make(chan struct{}, 16)
	f.images.agent = f
	f.streams.agent = f
	f.findings = []*phonehostv1.Finding{
		{Check: "kernel", Severity: phonehostv1.Severity_SEVERITY_OK, Message: "6.1.0 is new enough"},
		{Check: "loop-devices", Severity: phonehostv1.Severity_SEVERITY_WARNING, Message: "8 loop devices are left", Remedy: "modprobe loop max_loop=256"},
	}
	return f
}

// serve serves the API on a listener until the returned function is called.
func (f *fakeAgent) serve(t testing.TB, listener net.Listener, options ...grpc.ServerOption) (stop func()) {
	server := grpc.NewServer(options...)
	phonehostv1.RegisterPhoneServiceServer(server, f)
	phonehostv1.RegisterOperationServiceServer(server, fakeOperations{agent: f})
	phonehostv1.RegisterHostServiceServer(server, f)
	phonehostv1.RegisterImageServiceServer(server, &f.images)
	phonehostv1.RegisterStreamServiceServer(server, &f.streams)
	phonehostv1.RegisterEventServiceServer(server, &f.events)
	phonehostv1.RegisterDataServiceServer(server, fakeData{agent: f})
	phonehostv1.RegisterNetworkPolicyServiceServer(server, fakeNetworks{agent: f})
	phonehostv1.RegisterAppListServiceServer(server, fakeAppLists{agent: f})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			t.Errorf("serve: %v", err)
		}
	}
}

// startFakeAgent serves on a socket of its own until the returned function is called.
func startFakeAgent(t testing.TB) (*fakeAgent, func()) {
	dir, err := os.MkdirTemp("", "phonectl")
	if err != nil {
		t.Fatal(err)
	}
	f := newFakeAgent()
	f.socket = filepath.Join(dir, "agent.sock")
	listener, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	stop := f.serve(t, listener)
	return f, func() {
		stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
}

// refuse makes the API's error.
func refuse(code codes.Code, reason string, meta map[string]string, format string, args ...any) error {
	st, err := status.New(code, fmt.Sprintf(format, args...)).WithDetails(&errdetails.ErrorInfo{
		Domain: fault.Domain, Reason: reason, Metadata: meta,
	})
	if err != nil {
		panic(err) // a mistake in the fake
	}
	return st.Err()
}

func noPhone(id string) error {
	return refuse(codes.NotFound, fault.NoSuchPhone, nil, "phone %s: no such phone", id)
}

func (f *fakeAgent) CreatePhone(_ context.Context, in *phonehostv1.CreatePhoneRequest) (*phonehostv1.CreatePhoneResponse, error) {
	if in.GetCloneFrom() != "" {
		return f.clonePhone(in)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	spec := in.GetSpec()
	switch {
	case strings.ToLower(spec.GetId()) != spec.GetId():
		return nil, refuse(codes.InvalidArgument, fault.InvalidField, nil, "spec.id: %q is not 1..32 characters of [a-z0-9-]", spec.GetId())
	case f.phones[spec.GetId()] != nil:
		return nil, refuse(codes.AlreadyExists, fault.PhoneExists, nil, "phone %s: exists with another spec", spec.GetId())
	case !f.images.has(spec.GetImage()):
		return nil, refuse(codes.NotFound, fault.NoSuchImage, nil, "image %s: not on this host", spec.GetImage())
	}
	phone := &phonehostv1.Phone{
		Spec: spec, Status: phonehostv1.PhoneStatus_PHONE_STATUS_STOPPED, CreateTime: timestamppb.New(base), ImageDigest: fakeDigest,
		DataGeneration: 1,
	}
	if spec.Display == nil {
		spec.Display = &phonehostv1.DisplaySpec{Width: 720, Height: 1280, Dpi: 320, MaxFps: 30}
	}
	if spec.Vcpus == 0 {
		spec.Vcpus = 2
	}
	if spec.DataBytes == 0 {
		spec.DataBytes = 4 << 30
	}
	spec.CpuWeight = 100
	f.wire(phone)
	f.put(phone)
	return &phonehostv1.CreatePhoneResponse{Phone: proto.CloneOf(phone)}, nil
}

// put stores a phone and tells the watchers; f.mu is held.
func (f *fakeAgent) put(p *phonehostv1.Phone) {
	f.revision++
	p.Revision = f.revision
	f.phones[p.GetSpec().GetId()] = p
	f.changed.Broadcast()
}

func (f *fakeAgent) GetPhone(_ context.Context, in *phonehostv1.GetPhoneRequest) (*phonehostv1.GetPhoneResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.phones[in.GetPhoneId()]
	if p == nil {
		return nil, noPhone(in.GetPhoneId())
	}
	return &phonehostv1.GetPhoneResponse{Phone: proto.CloneOf(p)}, nil
}

// list returns copies of the phones; f.mu is held.
func (f *fakeAgent) list(ids []string) ([]*phonehostv1.Phone, error) {
	if len(ids) == 0 {
		for id := range f.phones {
			ids = append(ids, id)
		}
		slices.Sort(ids)
	}
	var out []*phonehostv1.Phone
	for _, id := range ids {
		if f.phones[id] == nil {
			return nil, noPhone(id)
		}
		out = append(out, proto.CloneOf(f.phones[id]))
	}
	return out, nil
}

func (f *fakeAgent) ListPhones(_ context.Context, in *phonehostv1.ListPhonesRequest) (*phonehostv1.ListPhonesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	phones, err := f.list(in.GetPhoneIds())
	return &phonehostv1.ListPhonesResponse{Phones: phones}, err
}

func (f fakeOperations) Watch(in *phonehostv1.OperationServiceWatchRequest, stream grpc.ServerStreamingServer[phonehostv1.OperationServiceWatchResponse]) error {
	op, err := f.agent.operation(in.GetOperationId())
	if err != nil {
		return err
	}
	for _, state := range op.history {
		if err := stream.Send(&phonehostv1.OperationServiceWatchResponse{Operation: state}); err != nil {
			return err
		}
	}
	if op.stuck {
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	return nil
}

func (f *fakeAgent) operation(id string) (fakeOperation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, op := range f.ops {
		if op.history[0].GetId() == id {
			return op, nil
		}
	}
	return fakeOperation{}, refuse(codes.NotFound, fault.NoSuchOperation, nil, "operation %s: no such operation", id)
}

func (f fakeOperations) GetOperation(_ context.Context, in *phonehostv1.GetOperationRequest) (*phonehostv1.GetOperationResponse, error) {
	op, err := f.agent.operation(in.GetOperationId())
	if err != nil {
		return nil, err
	}
	return &phonehostv1.GetOperationResponse{Operation: op.history[len(op.history)-1]}, nil
}

func (f fakeOperations) ListOperations(_ context.Context, in *phonehostv1.ListOperationsRequest) (*phonehostv1.ListOperationsResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	out := new(phonehostv1.ListOperationsResponse)
	for _, op := range slices.Backward(f.agent.ops) {
		last := op.history[len(op.history)-1]
		mine := slices.ContainsFunc(last.GetResults(), func(r *phonehostv1.OperationResult) bool { return r.GetPhoneId() == in.GetPhoneId() })
		if (in.GetPhoneId() == "" || mine) && (!in.GetRunningOnly() || op.stuck) {
			out.Operations = append(out.Operations, last)
		}
	}
	return out, nil
}

// begin runs an operation at once: check refuses a phone, apply changes it. When every phone refuses, the call fails.
func (f *fakeAgent) begin(kind phonehostv1.OperationKind, ids []string, requestID string,
	check func(*phonehostv1.Phone) error, apply func(*phonehostv1.Phone)) (*phonehostv1.Operation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, op := range f.ops {
		if requestID != "" && op.history[0].GetRequestId() == requestID {
			return op.history[0], nil
		}
	}
	op := fakeOperation{}
	first := &phonehostv1.Operation{
		Id: fmt.Sprintf("op-%d", len(f.ops)+1), Kind: kind, RequestId: requestID, RequestedBy: "uid/0",
		State: phonehostv1.OperationState_OPERATION_STATE_RUNNING, CreateTime: timestamppb.New(base),
	}
	last := proto.CloneOf(first)
	last.State, last.EndTime = phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED, timestamppb.New(base.Add(2900*time.Millisecond))
	var refusal error
	refused := 0
	for _, id := range ids {
		before := &phonehostv1.OperationResult{PhoneId: id, State: phonehostv1.OperationState_OPERATION_STATE_RUNNING, Progress: "starting the display"}
		after := &phonehostv1.OperationResult{PhoneId: id, State: last.GetState(), EndTime: last.GetEndTime()}
		err := noPhone(id)
		if f.phones[id] != nil {
			err = check(f.phones[id])
		}
		switch {
		case err != nil:
			refused++
			refusal = cmpOr(refusal, err)
			after = fakeFailure(kind, after, err)
			before = after
		case strings.HasPrefix(id, "stuck"):
			op.stuck = true
			after = proto.CloneOf(before)
			after.Progress = "waiting for boot completed"
		case strings.HasPrefix(id, "bad") && kind == phonehostv1.OperationKind_OPERATION_KIND_POWER_ON:
			after = fakeFailure(kind, after, refuse(codes.DeadlineExceeded, "BOOT_TIMEOUT", nil, "boot not completed in 60s; last seen: sys.boot_completed is empty"))
			f.phones[id].LastFailure = after.GetFailure()
			f.put(f.phones[id])
		default:
			apply(f.phones[id])
			f.put(f.phones[id])
		}
		first.Results = append(first.Results, before)
		last.Results = append(last.Results, after)
		if after.GetFailure() != nil {
			last.State = phonehostv1.OperationState_OPERATION_STATE_FAILED
		}
	}
	if refused == len(ids) {
		return nil, refusal
	}
	if op.stuck {
		last.State, last.EndTime = phonehostv1.OperationState_OPERATION_STATE_RUNNING, nil
	}
	middle := proto.CloneOf(first)
	for _, r := range middle.Results {
		if r.GetState() == phonehostv1.OperationState_OPERATION_STATE_RUNNING {
			r.Progress = "waiting for boot completed"
		}
	}
	op.history = []*phonehostv1.Operation{first, middle, last}
	f.ops = append(f.ops, op)
	return first, nil
}

func cmpOr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func fakeFailure(kind phonehostv1.OperationKind, r *phonehostv1.OperationResult, err error) *phonehostv1.OperationResult {
	st := status.Convert(err)
	reason, _ := reasonOf(st)
	r.State = phonehostv1.OperationState_OPERATION_STATE_FAILED
	r.Failure = &phonehostv1.Failure{OperationKind: kind, Code: int32(st.Code()), Reason: reason, Message: st.Message(), Time: r.GetEndTime()}
	return r
}

func (f *fakeAgent) PowerOn(_ context.Context, in *phonehostv1.PowerOnRequest) (*phonehostv1.PowerOnResponse, error) {
	op, err := f.begin(phonehostv1.OperationKind_OPERATION_KIND_POWER_ON, in.GetPhoneIds(), in.GetRequestId(),
		func(p *phonehostv1.Phone) error {
			if err := mustNotBeFrozen(p); err != nil {
				return err
			}
			if running(p) {
				return refuse(codes.FailedPrecondition, fault.AlreadyOn, nil, "phone %s: is 2 RUNNING", p.GetSpec().GetId())
			}
			return nil
		},
		func(p *phonehostv1.Phone) {
			p.Status, p.StartTime, p.BootTime = phonehostv1.PhoneStatus_PHONE_STATUS_RUNNING, timestamppb.New(base), timestamppb.New(base.Add(2900*time.Millisecond))
			p.LastBootDuration, p.InitPid = durationpb.New(2900*time.Millisecond), 4242
			p.BootGeneration++
			p.Display = &phonehostv1.DisplayState{Connected: true, HasContent: true, FramesCommitted: 90, FramesChanged: 88, Version: "1.0.0"}
		})
	return &phonehostv1.PowerOnResponse{Operation: op}, err
}

func running(p *phonehostv1.Phone) bool {
	return p.GetStatus() == phonehostv1.PhoneStatus_PHONE_STATUS_RUNNING
}

// mustRun refuses phones that do not run.
func mustRun(p *phonehostv1.Phone) error {
	if !running(p) {
		return refuse(codes.FailedPrecondition, fault.NotRunning, nil, "phone %s: is %d %s", p.GetSpec().GetId(), p.GetStatus(),
			strings.TrimPrefix(p.GetStatus().String(), "PHONE_STATUS_"))
	}
	return nil
}

func (f *fakeAgent) PowerOff(_ context.Context, in *phonehostv1.PowerOffRequest) (*phonehostv1.PowerOffResponse, error) {
	op, err := f.begin(phonehostv1.OperationKind_OPERATION_KIND_POWER_OFF, in.GetPhoneIds(), in.GetRequestId(), mustRun,
		func(p *phonehostv1.Phone) {
			p.Status, p.StartTime, p.BootTime, p.InitPid, p.Display = phonehostv1.PhoneStatus_PHONE_STATUS_POWERED_OFF, nil, nil, 0, nil
			if in.GetForce() {
				p.Reason = "killed on request"
			} else if in.GetGrace() != nil {
				p.Reason = "shut down within " + in.GetGrace().AsDuration().String()
			}
		})
	return &phonehostv1.PowerOffResponse{Operation: op}, err
}

func (f *fakeAgent) Restart(_ context.Context, in *phonehostv1.RestartRequest) (*phonehostv1.RestartResponse, error) {
	op, err := f.begin(phonehostv1.OperationKind_OPERATION_KIND_RESTART, in.GetPhoneIds(), in.GetRequestId(), mustRun,
		func(p *phonehostv1.Phone) {
			p.BootGeneration++
			p.PendingRestart = nil
			p.Spec.Image = cmpString(in.GetImage(), p.GetSpec().GetImage())
		})
	return &phonehostv1.RestartResponse{Operation: op}, err
}

func (f *fakeAgent) Reset(_ context.Context, in *phonehostv1.ResetRequest) (*phonehostv1.ResetResponse, error) {
	op, err := f.begin(phonehostv1.OperationKind_OPERATION_KIND_RESET, in.GetPhoneIds(), in.GetRequestId(),
		func(*phonehostv1.Phone) error { return nil }, func(p *phonehostv1.Phone) {
			p.DataGeneration++
			p.Spec.Image = cmpString(in.GetImage(), p.GetSpec().GetImage())
		})
	return &phonehostv1.ResetResponse{Operation: op}, err
}

func (f *fakeAgent) Delete(_ context.Context, in *phonehostv1.DeleteRequest) (*phonehostv1.DeleteResponse, error) {
	op, err := f.begin(phonehostv1.OperationKind_OPERATION_KIND_DELETE, in.GetPhoneIds(), in.GetRequestId(),
		func(p *phonehostv1.Phone) error {
			if running(p) && !in.GetForce() {
				return refuse(codes.FailedPrecondition, fault.NotOff, nil, "phone %s: is 2 RUNNING", p.GetSpec().GetId())
			}
			return nil
		}, func(*phonehostv1.Phone) {})
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range op.GetResults() {
		if r.GetFailure() == nil {
			delete(f.phones, r.GetPhoneId())
			f.deleted = append(f.deleted, r.GetPhoneId())
			f.changed.Broadcast()
		}
	}
	return &phonehostv1.DeleteResponse{Operation: op}, err
}

func (f *fakeAgent) GetSpec(_ context.Context, in *phonehostv1.GetSpecRequest) (*phonehostv1.GetSpecResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phones[in.GetPhoneId()] == nil {
		return nil, noPhone(in.GetPhoneId())
	}
	return &phonehostv1.GetSpecResponse{
		Guest:   `{"ociVersion":"1.3.0","hostname":"` + in.GetPhoneId() + `"}`,
		Display: `{"ociVersion":"1.3.0","process":{"args":["/phone-display"]}}`,
	}, nil
}

func (f *fakeAgent) GetHost(context.Context, *phonehostv1.GetHostRequest) (*phonehostv1.GetHostResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := make([]uint32, 6)
	for _, p := range f.phones {
		counts[p.GetStatus()]++
	}
	return &phonehostv1.GetHostResponse{Host: &phonehostv1.Host{
		Name: "rack-1", Version: "1.0.0", Kernel: "6.1.0", Arch: "arm64", Cpus: 64, MemoryBytes: 256 << 30, MemoryAvailableBytes: 200 << 30,
		DiskBytes: 2 << 40, DiskAvailableBytes: 1 << 40, ContainerdVersion: "1.6.20", StartTime: timestamppb.New(base), PhonesByStatus: counts,
		Binder:   &phonehostv1.Binder{Kind: phonehostv1.BinderKind_BINDER_KIND_POOL, Triples: 4, TriplesFree: 3},
		Warnings: []*phonehostv1.Warning{{Name: "disk-low", Severity: phonehostv1.Severity_SEVERITY_WARNING, Message: "less than 10 % free", Since: timestamppb.New(base)}},
	}}, nil
}

func (f *fakeAgent) RunDoctor(context.Context, *phonehostv1.RunDoctorRequest) (*phonehostv1.RunDoctorResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &phonehostv1.RunDoctorResponse{Findings: f.findings}, nil
}
