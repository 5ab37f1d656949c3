package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

const (
	stopped   = phonehostv1.PhoneStatus_PHONE_STATUS_STOPPED
	running   = phonehostv1.PhoneStatus_PHONE_STATUS_RUNNING
	succeeded = phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED
	police    = phonehostv1.FreezeReason_FREEZE_REASON_POLICE
	expired   = phonehostv1.FreezeReason_FREEZE_REASON_EXPIRED
)

// done waits for the operation of an answer and fails the test unless it succeeds.
func (s *server) done(t *testing.T, op *phonehostv1.Operation, err error) *phonehostv1.Operation {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if op = s.finish(t, op); op.GetState() != succeeded {
		t.Fatalf("%v", op)
	}
	return op
}

// get returns a phone.
func (s *server) get(t *testing.T, id string) *phonehostv1.Phone {
	t.Helper()
	m, err := s.phones.GetPhone(t.Context(), &phonehostv1.GetPhoneRequest{PhoneId: id})
	if err != nil {
		t.Fatal(err)
	}
	return m.GetPhone()
}

// update changes fields of phones and returns the ended operation.
func (s *server) update(t *testing.T, spec *phonehostv1.PhoneSpec, fields ...string) *phonehostv1.Operation {
	t.Helper()
	m, err := s.phones.Update(t.Context(), &phonehostv1.UpdateRequest{
		PhoneIds: []string{"p1"}, Spec: spec, UpdateMask: &fieldmaskpb.FieldMask{Paths: fields},
	})
	return s.done(t, m.GetOperation(), err)
}

func TestFreezeAndUnfreeze(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	m, err := s.phones.Freeze(t.Context(), &phonehostv1.FreezeRequest{
		PhoneIds: []string{"p1"}, Reason: police, Grace: durationpb.New(time.Second), RequestId: "f1",
	})
	op := s.done(t, m.GetOperation(), err)
	if op.GetKind() != phonehostv1.OperationKind_OPERATION_KIND_FREEZE {
		t.Errorf("operation: %v", op)
	}
	p := s.get(t, "p1")
	if f := p.GetFreezes(); p.GetStatus() != stopped || p.GetReason() != "frozen: POLICE" || len(f) != 1 || f[0].GetReason() != police ||
		f[0].GetRequestedBy() != "uid/0" || f[0].GetSince() == nil {
		t.Errorf("frozen phone: %v", p)
	}
	answer, err := s.phones.Unfreeze(t.Context(), &phonehostv1.UnfreezeRequest{PhoneIds: []string{"p1"}, Reasons: []phonehostv1.FreezeReason{police}})
	if op := s.done(t, answer.GetOperation(), err); op.GetKind() != phonehostv1.OperationKind_OPERATION_KIND_UNFREEZE {
		t.Errorf("operation: %v", op)
	}
	if p := s.get(t, "p1"); p.GetStatus() != stopped || p.GetFreezes() != nil || p.GetReason() != "" {
		t.Errorf("after it: %v", p)
	}
}

func TestUpdateFields(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	lease := &phonehostv1.Lease{ExpiresAt: timestamppb.New(time.Now().Add(time.Hour).Truncate(time.Second)), RetainUntil: timestamppb.New(time.Unix(1<<31, 0))}
	op := s.update(t, &phonehostv1.PhoneSpec{
		Vcpus: 1.5, CpuWeight: 200, MemoryBytes: 512 << 20, DataBytes: 8 << 30, Labels: map[string]string{"user": "u1"},
		RestartPolicy: phonehostv1.RestartPolicy_RESTART_POLICY_NEVER, Lease: lease,
		Display: &phonehostv1.DisplaySpec{Dpi: 240}, Properties: map[string]string{"ro.x": "1"},
	}, "vcpus", "cpu_weight", "memory_bytes", "data_bytes", "labels", "restart_policy", "lease", "display.dpi", "properties.ro.x")
	if op.GetKind() != phonehostv1.OperationKind_OPERATION_KIND_UPDATE {
		t.Errorf("operation: %v", op)
	}
	p := s.get(t, "p1")
	want := &phonehostv1.PhoneSpec{
		Id: "p1", Image: "phonehost.dev/testphone:latest", Profile: "testphone", Vcpus: 1.5, CpuWeight: 200, MemoryBytes: 512 << 20,
		DataBytes: 8 << 30, Display: &phonehostv1.DisplaySpec{Width: 720, Height: 1280, Dpi: 240, MaxFps: 30},
		Properties: map[string]string{"ro.x": "1"}, Labels: map[string]string{"user": "u1"},
		RestartPolicy: phonehostv1.RestartPolicy_RESTART_POLICY_NEVER, Lease: lease,
		Network: &phonehostv1.NetworkSpec{Policy: "allow-internet"},
	}
	if diff := cmp.Diff(want, p.GetSpec(), protocmp.Transform()); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if got := p.GetPendingRestart(); !slices.Equal(got, []string{"display", "properties"}) || p.GetStatus() != running {
		t.Errorf("pending: %v of %v", got, p.GetStatus())
	}
	if p.GetDataAndroidVersion() != "13" {
		t.Errorf("the data was used with %q", p.GetDataAndroidVersion())
	}
	s.update(t, &phonehostv1.PhoneSpec{}, "lease")
	if p := s.get(t, "p1"); p.GetSpec().GetLease() != nil {
		t.Errorf("a lease that was taken away: %v", p.GetSpec().GetLease())
	}
}

func TestCreateAClone(t *testing.T) {
	s := start(t)
	s.on(t, "p1")
	off, err := s.phones.PowerOff(t.Context(), &phonehostv1.PowerOffRequest{PhoneIds: []string{"p1"}, Force: true})
	s.done(t, off.GetOperation(), err)
	m, err := s.phones.CreatePhone(t.Context(), &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{Id: "p2"}, CloneFrom: "p1"})
	op := s.done(t, m.GetOperation(), err)
	if op.GetKind() != phonehostv1.OperationKind_OPERATION_KIND_CLONE || op.GetRequestedBy() != "uid/0" || m.GetPhone().GetStatus() != stopped {
		t.Errorf("clone: %v", m)
	}
	if p := s.get(t, "p2"); p.GetSpec().GetMemoryBytes() != 256<<20 || p.GetDataAndroidVersion() != "13" || p.GetOperationId() != "" {
		t.Errorf("the clone: %v", p)
	}
	on, err := s.phones.PowerOn(t.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{"p1", "p2"}})
	s.done(t, on.GetOperation(), err)
	again, err := s.phones.Restart(t.Context(), &phonehostv1.RestartRequest{PhoneIds: []string{"p2"}, Image: "newer", Force: true})
	s.done(t, again.GetOperation(), err)
	if p := s.get(t, "p2"); p.GetImageDigest() != "sha256:3" || p.GetSpec().GetImage() != "phonehost.dev/newer:latest" || p.GetDataAndroidVersion() != "14" {
		t.Errorf("after a restart with another image: %v", p)
	}
	reset, err := s.phones.Reset(t.Context(), &phonehostv1.ResetRequest{PhoneIds: []string{"p2"}, Image: "older"})
	s.done(t, reset.GetOperation(), err)
	if p := s.get(t, "p2"); p.GetImageDigest() != "sha256:2" || p.GetDataAndroidVersion() != "12" || p.GetDataGeneration() != 2 {
		t.Errorf("after a reset with another image: %v", p)
	}
}

func TestBatchGetStatus(t *testing.T) {
	s := start(t)
	s.on(t, "running")
	s.create(t, "frozen")
	m, err := s.phones.Freeze(t.Context(), &phonehostv1.FreezeRequest{PhoneIds: []string{"frozen"}, Reason: expired})
	s.done(t, m.GetOperation(), err)
	ids := []string{"frozen", "nobody", "running"}
	for len(ids) < 1000 {
		ids = append(ids, fmt.Sprintf("none-%d", len(ids)))
	}
	got, err := s.phones.BatchGetStatus(t.Context(), &phonehostv1.BatchGetStatusRequest{PhoneIds: ids})
	if err != nil || len(got.GetEntries()) != 1000 {
		t.Fatalf("%d entries, %v", len(got.GetEntries()), err)
	}
	for i, e := range got.GetEntries() {
		if e.GetPhoneId() != ids[i] || e.GetExists() != (i == 0 || i == 2) || e.GetExists() != (e.GetRevision() > 0) {
			t.Errorf("entry %d: %v", i, e)
		}
	}
	want := []*phonehostv1.PhoneStatusEntry{
		{PhoneId: "frozen", Exists: true, Status: stopped, Reason: "frozen: EXPIRED", Freezes: []phonehostv1.FreezeReason{expired}, Streaming: true},
		{PhoneId: "nobody"},
		{PhoneId: "running", Exists: true, Status: running, Streaming: true},
	}
	if diff := cmp.Diff(want, got.GetEntries()[:3], protocmp.Transform(), protocmp.IgnoreFields(&phonehostv1.PhoneStatusEntry{}, "revision")); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// TestEveryErrorOfTheLifecycle calls the methods that change phones in every way that is refused, where TestEveryError does not.
func TestEveryErrorOfTheLifecycle(t *testing.T) {
	s := start(t)
	s.on(t, "running")
	s.create(t, "stopped")
	s.create(t, "frozen")
	m, err := s.phones.Freeze(t.Context(), &phonehostv1.FreezeRequest{PhoneIds: []string{"frozen"}, Reason: police})
	s.done(t, m.GetOperation(), err)
	if _, err := s.sup.Create(t.Context(), specWithLease("expired", time.Now().Add(50*time.Millisecond))); err != nil {
		t.Fatal(err)
	}
	watch := s.sup.Watch([]string{"expired"})
	defer watch.Close()
	for len(s.get(t, "expired").GetFreezes()) == 0 {
		if _, err := watch.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprintf("p%d", i)
	}
	c := s.phones
	field := func(name string) refusal { return refusal{codes.InvalidArgument, fault.InvalidField, name} }
	no := func(reason string) refusal { return refusal{Code: codes.FailedPrecondition, Reason: reason} }
	notFound := refusal{Code: codes.NotFound, Reason: fault.NoSuchPhone}
	noImage := refusal{Code: codes.NotFound, Reason: fault.NoSuchImage}
	update := func(id string, spec *phonehostv1.PhoneSpec, fields ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			return second(c.Update(ctx, &phonehostv1.UpdateRequest{PhoneIds: []string{id}, Spec: spec, UpdateMask: &fieldmaskpb.FieldMask{Paths: fields}}))
		}
	}
	clone := func(from string, spec *phonehostv1.PhoneSpec) func(context.Context) error {
		return func(ctx context.Context) error {
			return second(c.CreatePhone(ctx, &phonehostv1.CreatePhoneRequest{Spec: spec, CloneFrom: from}))
		}
	}
	freeze := func(q *phonehostv1.FreezeRequest) func(context.Context) error {
		return func(ctx context.Context) error { return second(c.Freeze(ctx, q)) }
	}
	unfreeze := func(id string, reasons ...phonehostv1.FreezeReason) func(context.Context) error {
		return func(ctx context.Context) error {
			return second(c.Unfreeze(ctx, &phonehostv1.UnfreezeRequest{PhoneIds: []string{id}, Reasons: reasons}))
		}
	}
	restart := func(id, image string) func(context.Context) error {
		return func(ctx context.Context) error {
			return second(c.Restart(ctx, &phonehostv1.RestartRequest{PhoneIds: []string{id}, Image: image}))
		}
	}
	reset := func(image string) func(context.Context) error {
		return func(ctx context.Context) error {
			return second(c.Reset(ctx, &phonehostv1.ResetRequest{PhoneIds: []string{"running"}, Image: image}))
		}
	}
	badTime := &timestamppb.Timestamp{Nanos: -1}
	tests := []struct {
		name string
		call func(ctx context.Context) error
		want refusal
	}{
		{"BatchGetStatus none", func(ctx context.Context) error {
			return second(c.BatchGetStatus(ctx, &phonehostv1.BatchGetStatusRequest{}))
		}, field("phone_ids")},
		{"BatchGetStatus many", func(ctx context.Context) error {
			return second(c.BatchGetStatus(ctx, &phonehostv1.BatchGetStatusRequest{PhoneIds: many}))
		}, field("phone_ids")},
		{"PowerOn frozen", func(ctx context.Context) error {
			return second(c.PowerOn(ctx, &phonehostv1.PowerOnRequest{PhoneIds: []string{"frozen"}}))
		}, no(fault.Frozen)},
		{"Restart frozen", restart("frozen", ""), no(fault.Frozen)},
		{"Restart unknown image", restart("running", "nothing"), noImage},
		{"Restart image of another profile", restart("running", "other"), no(fault.WrongProfile)},
		{"Restart older image", restart("running", "older"), no(fault.DataNewer)},
		{"Restart long image", restart("running", strings.Repeat("x", 513)), field("image")},
		{"Reset unknown image", reset("nothing"), noImage},
		{"Reset image of another profile", reset("other"), no(fault.WrongProfile)},
		{"Freeze without reason", freeze(&phonehostv1.FreezeRequest{PhoneIds: []string{"running"}}), field("reason")},
		{"Freeze bad reason", freeze(&phonehostv1.FreezeRequest{PhoneIds: []string{"running"}, Reason: 9}), field("reason")},
		{"Freeze grace", freeze(&phonehostv1.FreezeRequest{PhoneIds: []string{"running"}, Reason: police, Grace: durationpb.New(time.Hour)}), field("grace")},
		{"Freeze many", freeze(&phonehostv1.FreezeRequest{PhoneIds: many[:101], Reason: police}), field("phone_ids")},
		{"Freeze unknown", freeze(&phonehostv1.FreezeRequest{PhoneIds: []string{"x"}, Reason: police}), notFound},
		{"Unfreeze bad reason", unfreeze("frozen", police, 0), field("reasons")},
		{"Unfreeze expired", unfreeze("expired"), no(fault.LeaseExpired)},
		{"Unfreeze expired by name", unfreeze("expired", expired), no(fault.LeaseExpired)},
		{"Unfreeze unknown", unfreeze("x"), notFound},
		{"Update without mask", update("running", &phonehostv1.PhoneSpec{}), field("update_mask")},
		{"Update unknown field", update("running", &phonehostv1.PhoneSpec{}, "colour"), field("update_mask")},
		{"Update image", update("running", &phonehostv1.PhoneSpec{Image: "newer"}, "image"), field("spec.image")},
		{"Update id", update("running", &phonehostv1.PhoneSpec{Id: "x"}, "id"), field("spec.id")},
		{"Update profile", update("running", &phonehostv1.PhoneSpec{Profile: "x"}, "profile"), field("spec.profile")},
		{"Update less data", update("running", &phonehostv1.PhoneSpec{DataBytes: 1 << 30}, "data_bytes"), field("spec.data_bytes")},
		{"Update lease over", update("running", &phonehostv1.PhoneSpec{Lease: &phonehostv1.Lease{ExpiresAt: timestamppb.New(time.Unix(1, 0))}}, "lease"), field("spec.lease.expires_at")},
		{"Update no time", update("running", &phonehostv1.PhoneSpec{Lease: &phonehostv1.Lease{ExpiresAt: badTime}}, "lease"), field("spec.lease.expires_at")},
		{"Update no time to retain", update("running", &phonehostv1.PhoneSpec{Lease: &phonehostv1.Lease{RetainUntil: badTime}}, "lease"), field("spec.lease.retain_until")},
		{"Update unknown", update("x", &phonehostv1.PhoneSpec{}, "labels"), notFound},
		{"Create lease over", clone("", &phonehostv1.PhoneSpec{Id: "new", Image: "testphone", MemoryBytes: 64 << 20,
			Lease: &phonehostv1.Lease{ExpiresAt: timestamppb.New(time.Unix(1, 0))}}), field("spec.lease.expires_at")},
		{"Create no time", clone("", &phonehostv1.PhoneSpec{Id: "new", Lease: &phonehostv1.Lease{ExpiresAt: badTime}}), field("spec.lease.expires_at")},
		{"Clone of no phone", clone("x", &phonehostv1.PhoneSpec{Id: "new"}), notFound},
		{"Clone of itself", clone("stopped", &phonehostv1.PhoneSpec{Id: "stopped"}), field("clone_from")},
		{"Clone of a running phone", clone("running", &phonehostv1.PhoneSpec{Id: "new"}), no(fault.NotOff)},
		{"Clone with less data", clone("stopped", &phonehostv1.PhoneSpec{Id: "new", DataBytes: 1 << 30}), field("spec.data_bytes")},
		{"Clone with another profile", clone("stopped", &phonehostv1.PhoneSpec{Id: "new", Image: "other"}), no(fault.WrongProfile)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := tt.call(ctx)
			if got := readError(t, err); got != tt.want {
				t.Errorf("got %+v (%v), want %+v", got, err, tt.want)
			}
		})
	}
	if err := second(c.PowerOn(t.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{"frozen"}})); !strings.Contains(err.Error(), "POLICE") {
		t.Errorf("a refusal that does not say why the phone is frozen: %v", err)
	}
}

// specWithLease is a phone whose lease ends.
func specWithLease(id string, expires time.Time) phone.Spec {
	return phone.Spec{ID: id, Image: "testphone", MemoryBytes: 64 << 20, Lease: phone.Lease{ExpiresAt: expires}}
}
