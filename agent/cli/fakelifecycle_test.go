package cli

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// clonePhone makes a phone out of one that is off.
func (f *fakeAgent) clonePhone(in *phonehostv1.CreatePhoneRequest) (*phonehostv1.CreatePhoneResponse, error) {
	f.mu.Lock()
	source, id := f.phones[in.GetCloneFrom()], in.GetSpec().GetId()
	if source != nil && !running(source) {
		spec := proto.CloneOf(source.GetSpec())
		spec.Id, spec.Labels, spec.Lease = id, in.GetSpec().GetLabels(), in.GetSpec().GetLease()
		if in.GetSpec().GetMemoryBytes() != 0 {
			spec.MemoryBytes = in.GetSpec().GetMemoryBytes()
		}
		f.put(&phonehostv1.Phone{
			Spec: spec, Status: phonehostv1.PhoneStatus_PHONE_STATUS_STOPPED, CreateTime: timestamppb.New(base), ImageDigest: fakeDigest, DataGeneration: 1,
		})
	}
	f.mu.Unlock()
	switch {
	case source == nil:
		return nil, noPhone(in.GetCloneFrom())
	case running(source):
		return nil, refuse(codes.FailedPrecondition, fault.NotOff, nil, "phone %s: is 2 RUNNING: power it off first", in.GetCloneFrom())
	}
	op, err := f.begin(phonehostv1.OperationKind_OPERATION_KIND_CLONE, []string{id}, "",
		func(*phonehostv1.Phone) error { return nil }, func(*phonehostv1.Phone) {})
	f.mu.Lock()
	defer f.mu.Unlock()
	phone := proto.CloneOf(f.phones[id])
	phone.OperationId = op.GetId()
	return &phonehostv1.CreatePhoneResponse{Phone: phone, Operation: op}, err
}

func mustNotBeFrozen(p *phonehostv1.Phone) error {
	if len(p.GetFreezes()) == 0 {
		return nil
	}
	return refuse(codes.FailedPrecondition, fault.Frozen, nil, "phone %s: is frozen: %s", p.GetSpec().GetId(), freezeWords(p))
}

func freezeWords(p *phonehostv1.Phone) string {
	var words []string
	for _, fr := range p.GetFreezes() {
		words = append(words, strings.TrimPrefix(fr.GetReason().String(), "FREEZE_REASON_"))
	}
	return strings.Join(words, ", ")
}

func (f *fakeAgent) Freeze(_ context.Context, in *phonehostv1.FreezeRequest) (*phonehostv1.FreezeResponse, error) {
	op, err := f.begin(phonehostv1.OperationKind_OPERATION_KIND_FREEZE, in.GetPhoneIds(), in.GetRequestId(),
		func(*phonehostv1.Phone) error { return nil },
		func(p *phonehostv1.Phone) {
			p.Freezes = append(p.Freezes, &phonehostv1.Freeze{Reason: in.GetReason(), Since: timestamppb.New(base), RequestedBy: "uid/0"})
			p.Status, p.StartTime, p.Display = phonehostv1.PhoneStatus_PHONE_STATUS_STOPPED, nil, nil
			p.Reason = "frozen: " + freezeWords(p)
		})
	return &phonehostv1.FreezeResponse{Operation: op}, err
}

func (f *fakeAgent) Unfreeze(_ context.Context, in *phonehostv1.UnfreezeRequest) (*phonehostv1.UnfreezeResponse, error) {
	op, err := f.begin(phonehostv1.OperationKind_OPERATION_KIND_UNFREEZE, in.GetPhoneIds(), in.GetRequestId(),
		func(p *phonehostv1.Phone) error {
			if at := p.GetSpec().GetLease().GetExpiresAt(); at != nil && !testNow.Before(at.AsTime()) {
				return refuse(codes.FailedPrecondition, fault.LeaseExpired, nil, "the lease of phone %s ended", p.GetSpec().GetId())
			}
			return nil
		},
		func(p *phonehostv1.Phone) {
			p.Freezes = slices.DeleteFunc(p.Freezes, func(fr *phonehostv1.Freeze) bool {
				return len(in.GetReasons()) == 0 || slices.Contains(in.GetReasons(), fr.GetReason())
			})
			p.Reason = ""
			if len(p.Freezes) > 0 {
				p.Reason = "frozen: " + freezeWords(p)
			}
		})
	return &phonehostv1.UnfreezeResponse{Operation: op}, err
}

// Update knows the fields that phonectl names.
func (f *fakeAgent) Update(_ context.Context, in *phonehostv1.UpdateRequest) (*phonehostv1.UpdateResponse, error) {
	op, err := f.begin(phonehostv1.OperationKind_OPERATION_KIND_UPDATE, in.GetPhoneIds(), in.GetRequestId(),
		func(p *phonehostv1.Phone) error {
			if slices.Contains(in.GetUpdateMask().GetPaths(), "data_bytes") && in.GetSpec().GetDataBytes() < p.GetSpec().GetDataBytes() {
				return refuse(codes.InvalidArgument, fault.InvalidField, nil, "spec.data_bytes: a data volume cannot shrink")
			}
			return nil
		},
		func(p *phonehostv1.Phone) {
			for _, path := range in.GetUpdateMask().GetPaths() {
				fakeSet(p, in.GetSpec(), path)
			}
		})
	return &phonehostv1.UpdateResponse{Operation: op}, err
}

// fakeSet changes one field.
func fakeSet(p *phonehostv1.Phone, from *phonehostv1.PhoneSpec, path string) {
	to := p.GetSpec()
	name, key, _ := strings.Cut(path, ".")
	switch {
	case path == "vcpus":
		to.Vcpus = from.GetVcpus()
	case path == "cpu_weight":
		to.CpuWeight = from.GetCpuWeight()
	case path == "memory_bytes":
		to.MemoryBytes = from.GetMemoryBytes()
	case path == "data_bytes":
		to.DataBytes = from.GetDataBytes()
	case path == "restart_policy":
		to.RestartPolicy = from.GetRestartPolicy()
	case path == "display.width":
		to.Display.Width = from.GetDisplay().GetWidth()
	case path == "display.height":
		to.Display.Height = from.GetDisplay().GetHeight()
	case path == "display.dpi":
		to.Display.Dpi = from.GetDisplay().GetDpi()
	case path == "display.max_fps":
		to.Display.MaxFps = from.GetDisplay().GetMaxFps()
	case path == "lease.expires_at":
		if to.Lease == nil {
			to.Lease = &phonehostv1.Lease{}
		}
		to.Lease.ExpiresAt = from.GetLease().GetExpiresAt()
	case path == "lease.retain_until":
		if to.Lease == nil {
			to.Lease = &phonehostv1.Lease{}
		}
		to.Lease.RetainUntil = from.GetLease().GetRetainUntil()
	case name == "labels":
		to.Labels = fakeKey(to.Labels, from.GetLabels(), key)
	case name == "properties":
		to.Properties = fakeKey(to.Properties, from.GetProperties(), key)
	default:
		panic("update of " + path)
	}
	if running(p) && (name == "display" || name == "properties") && !slices.Contains(p.PendingRestart, name) {
		p.PendingRestart = append(p.PendingRestart, name)
	}
}

func fakeKey(to, from map[string]string, key string) map[string]string {
	if to == nil {
		to = map[string]string{}
	}
	if value, has := from[key]; has {
		to[key] = value
	} else {
		delete(to, key)
	}
	return to
}
