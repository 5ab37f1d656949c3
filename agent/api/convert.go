package api

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// The numbers of statuses, kinds, states and policies are the same here and in the API (a test compares them), so they are converted
// as numbers.

// specFromProto reads what a caller asks for. A nil message gives the empty spec, which Validate refuses. Refused here is what phone.Spec
// cannot hold; all other values are checked by package phone.
func specFromProto(m *phonehostv1.PhoneSpec) (phone.Spec, error) {
	if err := checkTimes(m); err != nil {
		return phone.Spec{}, err
	}
	network, err := networkFromProto(m.GetNetwork())
	if err != nil {
		return phone.Spec{}, err
	}
	d := m.GetDisplay()
	return phone.Spec{
		ID: m.GetId(), Image: m.GetImage(), Profile: m.GetProfile(),
		VCPUs: m.GetVcpus(), CPUWeight: m.GetCpuWeight(), MemoryBytes: m.GetMemoryBytes(), DataBytes: m.GetDataBytes(),
		Display:    phone.Display{Width: d.GetWidth(), Height: d.GetHeight(), DPI: d.GetDpi(), MaxFPS: d.GetMaxFps()},
		Properties: m.GetProperties(), Labels: m.GetLabels(),
		RestartPolicy: phone.RestartPolicy(m.GetRestartPolicy()),
		Lease:         phone.Lease{ExpiresAt: timeOf(m.GetLease().GetExpiresAt()), RetainUntil: timeOf(m.GetLease().GetRetainUntil())},
		Network:       network, AppList: m.GetAppList(),
	}, nil
}

// checkTimes refuses times that are none.
func checkTimes(m *phonehostv1.PhoneSpec) error {
	for _, f := range []struct {
		field string
		value *timestamppb.Timestamp
	}{{"spec.lease.expires_at", m.GetLease().GetExpiresAt()}, {"spec.lease.retain_until", m.GetLease().GetRetainUntil()}} {
		if f.value == nil {
			continue
		}
		if err := f.value.CheckValid(); err != nil {
			return fault.Field(f.field, "is not a time: %v", err)
		}
	}
	return nil
}

// timeOf converts a time; an absent one is zero.
func timeOf(m *timestamppb.Timestamp) time.Time {
	if m == nil {
		return time.Time{}
	}
	return m.AsTime()
}

func specToProto(s phone.Spec) *phonehostv1.PhoneSpec {
	m := &phonehostv1.PhoneSpec{
		Id: s.ID, Image: s.Image, Profile: s.Profile,
		Vcpus: s.VCPUs, CpuWeight: s.CPUWeight, MemoryBytes: s.MemoryBytes, DataBytes: s.DataBytes,
		Display: &phonehostv1.DisplaySpec{
			Width: s.Display.Width, Height: s.Display.Height, Dpi: s.Display.DPI, MaxFps: s.Display.MaxFPS,
		},
		Properties: s.Properties, Labels: s.Labels,
		RestartPolicy: phonehostv1.RestartPolicy(s.RestartPolicy), Network: networkToProto(s.Network), AppList: s.AppList,
	}
	if l := s.Lease; !l.ExpiresAt.IsZero() || !l.RetainUntil.IsZero() {
		m.Lease = &phonehostv1.Lease{ExpiresAt: timestamp(l.ExpiresAt), RetainUntil: timestamp(l.RetainUntil)}
	}
	return m
}

// phoneToProto joins a snapshot with what its display reports and who watches it.
func phoneToProto(s phone.Snapshot, state display.State, viewers int) *phonehostv1.Phone {
	r := s.Record
	m := &phonehostv1.Phone{
		Spec:           specToProto(r.Spec),
		Status:         phonehostv1.PhoneStatus(s.Status),
		Reason:         s.Reason,
		Streaming:      viewers > 0,
		Viewers:        uint32(viewers),
		CreateTime:     timestamp(r.CreateTime),
		StartTime:      timestamp(s.StartTime),
		BootTime:       timestamp(s.BootTime),
		BootGeneration: r.BootGeneration,
		DataGeneration: r.DataGeneration,
		ImageDigest:    r.ImageDigest,
		LastFailure:    failureToProto(r.LastFailure),
		InitPid:        s.InitPID,
		Revision:       s.Revision,

		PendingRestart: s.PendingRestart, QueuePosition: uint32(s.QueuePosition), DataAndroidVersion: r.DataAndroid,
		OperationId: s.OperationID(), Network: networkStateToProto(s),
	}
	for _, f := range r.Freezes {
		m.Freezes = append(m.Freezes, &phonehostv1.Freeze{
			Reason: phonehostv1.FreezeReason(f.Reason), Since: timestamp(f.Since), RequestedBy: f.RequestedBy,
		})
	}
	if r.Booted.Generation > 0 {
		m.LastBootDuration = durationpb.New(r.Booted.Duration)
	}
	if r.Hold != nil {
		m.Hold = &phonehostv1.Hold{Reason: r.Hold.Reason, Since: timestamp(r.Hold.Since)}
	}
	if s.DisplayOn {
		m.Display = &phonehostv1.DisplayState{
			Connected: state.Connected, HasContent: state.HasContent,
			FramesCommitted: state.FramesCommitted, FramesChanged: state.FramesChanged, FramesEncoded: state.FramesEncoded,
			Version: state.Version,
		}
	}
	return m
}

func operationToProto(op operation.Operation) *phonehostv1.Operation {
	m := &phonehostv1.Operation{
		Id: op.ID, Kind: phonehostv1.OperationKind(op.Kind), RequestId: op.RequestID, RequestedBy: op.RequestedBy,
		State: phonehostv1.OperationState(op.State), CreateTime: timestamp(op.CreateTime), EndTime: timestamp(op.EndTime),
		Results: make([]*phonehostv1.OperationResult, 0, len(op.Results)),
	}
	for _, r := range op.Results {
		m.Results = append(m.Results, &phonehostv1.OperationResult{
			PhoneId: r.PhoneID, State: phonehostv1.OperationState(r.State), Progress: r.Progress,
			Failure: failureToProto(r.Failure), EndTime: timestamp(r.EndTime), Output: outputToProto(r.Output),
		})
	}
	return m
}

func outputToProto(o *operation.Output) *phonehostv1.CommandOutput {
	if o == nil {
		return nil
	}
	m := &phonehostv1.CommandOutput{
		Stdout: o.Stdout, Stderr: o.Stderr, StdoutDroppedBytes: o.StdoutDropped, StderrDroppedBytes: o.StderrDropped, Duration: durationpb.New(o.Duration),
	}
	if o.ExitCode != nil {
		m.ExitCode = new(int32(*o.ExitCode))
	}
	return m
}

func failureToProto(f *operation.Failure) *phonehostv1.Failure {
	if f == nil {
		return nil
	}
	return &phonehostv1.Failure{
		OperationKind: phonehostv1.OperationKind(f.Kind), Code: f.Code, Reason: f.Reason, Message: f.Message, Time: timestamp(f.Time),
	}
}

func eventToProto(e event.Event) *phonehostv1.Event {
	return &phonehostv1.Event{
		Seq: e.Seq, Time: timestamp(e.Time), Kind: phonehostv1.EventKind(e.Kind), PhoneId: e.PhoneID, OperationId: e.OperationID,
		Message: e.Message, Attributes: e.Attributes,
	}
}

// timestamp converts a time; the zero time is absent.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
