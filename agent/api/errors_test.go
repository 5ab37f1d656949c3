package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

func TestStatusError(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want refusal
	}{
		{"nil", nil, refusal{}},
		{"a status stays", status.Error(codes.DataLoss, "x"), refusal{Code: codes.DataLoss}},
		{"class", fmt.Errorf("step: %w", errdefs.ErrNotFound), refusal{Code: codes.NotFound}},
		{"unavailable", fmt.Errorf("step: %w", errdefs.ErrUnavailable), refusal{Code: codes.Unavailable}},
		{"reason", fmt.Errorf("step: %w", fault.New(errdefs.ErrFailedPrecondition, "WHY", "x")), refusal{Code: codes.FailedPrecondition, Reason: "WHY"}},
		{"field", fault.Field("spec.id", "is wrong"), refusal{codes.InvalidArgument, fault.InvalidField, "spec.id"}},
		{"cancelled", fmt.Errorf("step: %w", context.Canceled), refusal{Code: codes.Canceled}},
		{"deadline", fmt.Errorf("step: %w", context.DeadlineExceeded), refusal{Code: codes.DeadlineExceeded}},
		{"no class", errors.New("x"), refusal{Code: codes.Unknown}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := readError(t, statusError(tt.err)); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	long := status.Convert(statusError(errors.New(strings.Repeat("\xff", 1<<20))))
	if len(long.Message()) > 4*maxErrorText {
		t.Errorf("a status carries %d bytes of text", len(long.Message()))
	}
}

// TestEveryError calls every method of the services in every way that is refused.
func TestEveryError(t *testing.T) {
	s := start(t)
	s.on(t, "running")
	s.create(t, "stopped")
	ids := func(names ...string) []string { return names }
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprintf("p%d", i)
	}
	spec := func(edit func(*phonehostv1.PhoneSpec)) *phonehostv1.CreatePhoneRequest {
		m := &phonehostv1.PhoneSpec{Id: "new", Image: "testphone", MemoryBytes: 64 << 20}
		edit(m)
		return &phonehostv1.CreatePhoneRequest{Spec: m}
	}
	c := s.phones
	notFound := refusal{Code: codes.NotFound, Reason: fault.NoSuchPhone}
	field := func(name string) refusal { return refusal{codes.InvalidArgument, fault.InvalidField, name} }
	no := func(reason string) refusal { return refusal{Code: codes.FailedPrecondition, Reason: reason} }
	tests := []struct {
		name string
		call func(ctx context.Context) error
		want refusal
	}{
		{"CreatePhone without spec", func(ctx context.Context) error { return second(c.CreatePhone(ctx, &phonehostv1.CreatePhoneRequest{})) }, field("spec")},
		{"CreatePhone bad id", func(ctx context.Context) error {
			return second(c.CreatePhone(ctx, spec(func(m *phonehostv1.PhoneSpec) { m.Id = "A" })))
		}, field("spec.id")},
		{"CreatePhone memory 0", func(ctx context.Context) error {
			return second(c.CreatePhone(ctx, spec(func(m *phonehostv1.PhoneSpec) { m.MemoryBytes = 0 })))
		}, field("spec.memory_bytes")},
		{"CreatePhone absurd display", func(ctx context.Context) error {
			return second(c.CreatePhone(ctx, spec(func(m *phonehostv1.PhoneSpec) { m.Display = &phonehostv1.DisplaySpec{Width: 1 << 31} })))
		}, field("spec.display.width")},
		{"CreatePhone unknown image", func(ctx context.Context) error {
			return second(c.CreatePhone(ctx, spec(func(m *phonehostv1.PhoneSpec) { m.Image = "nothing" })))
		}, refusal{Code: codes.NotFound, Reason: fault.NoSuchImage}},
		{"CreatePhone unknown profile", func(ctx context.Context) error {
			return second(c.CreatePhone(ctx, spec(func(m *phonehostv1.PhoneSpec) { m.Profile = "x" })))
		}, field("spec.profile")},
		{"CreatePhone taken", func(ctx context.Context) error {
			return second(c.CreatePhone(ctx, spec(func(m *phonehostv1.PhoneSpec) { m.Id = "stopped" })))
		}, refusal{Code: codes.AlreadyExists, Reason: fault.PhoneExists}},
		{"GetPhone", func(ctx context.Context) error {
			return second(c.GetPhone(ctx, &phonehostv1.GetPhoneRequest{PhoneId: "x"}))
		}, notFound},
		{"ListPhones unknown", func(ctx context.Context) error {
			return second(c.ListPhones(ctx, &phonehostv1.ListPhonesRequest{PhoneIds: ids("running", "x")}))
		}, notFound},
		{"ListPhones many", func(ctx context.Context) error {
			return second(c.ListPhones(ctx, &phonehostv1.ListPhonesRequest{PhoneIds: many}))
		}, field("phone_ids")},
		{"Watch many", func(ctx context.Context) error { return recv(c.Watch(ctx, &phonehostv1.WatchRequest{PhoneIds: many})) }, field("phone_ids")},
		{"PowerOn none", func(ctx context.Context) error { return second(c.PowerOn(ctx, &phonehostv1.PowerOnRequest{})) }, field("phone_ids")},
		{"PowerOn many", func(ctx context.Context) error {
			return second(c.PowerOn(ctx, &phonehostv1.PowerOnRequest{PhoneIds: many[:101]}))
		}, field("phone_ids")},
		{"PowerOn twice the same", func(ctx context.Context) error {
			return second(c.PowerOn(ctx, &phonehostv1.PowerOnRequest{PhoneIds: ids("stopped", "stopped")}))
		}, field("phone_ids")},
		{"PowerOn request id", func(ctx context.Context) error {
			return second(c.PowerOn(ctx, &phonehostv1.PowerOnRequest{PhoneIds: ids("stopped"), RequestId: strings.Repeat("x", 65)}))
		}, field("request_id")},
		{"PowerOn unknown", func(ctx context.Context) error {
			return second(c.PowerOn(ctx, &phonehostv1.PowerOnRequest{PhoneIds: ids("x")}))
		}, notFound},
		{"PowerOn running", func(ctx context.Context) error {
			return second(c.PowerOn(ctx, &phonehostv1.PowerOnRequest{PhoneIds: ids("running")}))
		}, no(fault.AlreadyOn)},
		{"PowerOff stopped", func(ctx context.Context) error {
			return second(c.PowerOff(ctx, &phonehostv1.PowerOffRequest{PhoneIds: ids("stopped")}))
		}, no(fault.NotRunning)},
		{"PowerOff grace", func(ctx context.Context) error {
			return second(c.PowerOff(ctx, &phonehostv1.PowerOffRequest{PhoneIds: ids("running"), Grace: durationpb.New(time.Hour)}))
		}, field("grace")},
		{"PowerOff grace that is none", func(ctx context.Context) error {
			return second(c.PowerOff(ctx, &phonehostv1.PowerOffRequest{PhoneIds: ids("running"), Grace: &durationpb.Duration{Seconds: 1, Nanos: -1}}))
		}, field("grace")},
		{"Restart stopped", func(ctx context.Context) error {
			return second(c.Restart(ctx, &phonehostv1.RestartRequest{PhoneIds: ids("stopped")}))
		}, no(fault.NotRunning)},
		{"Restart grace", func(ctx context.Context) error {
			return second(c.Restart(ctx, &phonehostv1.RestartRequest{PhoneIds: ids("running"), Grace: durationpb.New(-1)}))
		}, field("grace")},
		{"Reset unknown", func(ctx context.Context) error {
			return second(c.Reset(ctx, &phonehostv1.ResetRequest{PhoneIds: ids("x")}))
		}, notFound},
		{"Delete running", func(ctx context.Context) error {
			return second(c.Delete(ctx, &phonehostv1.DeleteRequest{PhoneIds: ids("running")}))
		}, no(fault.NotOff)},
		{"GetSpec", func(ctx context.Context) error {
			return second(c.GetSpec(ctx, &phonehostv1.GetSpecRequest{PhoneId: "x"}))
		}, notFound},
		{"Logs unknown", func(ctx context.Context) error {
			return recv(c.Logs(ctx, &phonehostv1.LogsRequest{PhoneId: "x"}))
		}, notFound},
		{"Logs source", func(ctx context.Context) error {
			return recv(c.Logs(ctx, &phonehostv1.LogsRequest{PhoneId: "running", Source: 9}))
		}, field("source")},
		{"GetOperation", func(ctx context.Context) error {
			return second(s.ops.GetOperation(ctx, &phonehostv1.GetOperationRequest{OperationId: "op-99"}))
		}, refusal{Code: codes.NotFound, Reason: fault.NoSuchOperation}},
		{"Watch operation", func(ctx context.Context) error {
			return recv(s.ops.Watch(ctx, &phonehostv1.OperationServiceWatchRequest{OperationId: "x"}))
		}, refusal{Code: codes.NotFound, Reason: fault.NoSuchOperation}},
		{"ListOperations limit", func(ctx context.Context) error {
			return second(s.ops.ListOperations(ctx, &phonehostv1.ListOperationsRequest{Limit: 1001}))
		}, field("limit")},
		{"Watch events both", func(ctx context.Context) error {
			return recv(s.events.Watch(ctx, &phonehostv1.EventServiceWatchRequest{AfterSeq: 1, OnlyNew: true}))
		}, field("after_seq")},
		{"Watch events ahead", func(ctx context.Context) error {
			return recv(s.events.Watch(ctx, &phonehostv1.EventServiceWatchRequest{AfterSeq: 1 << 40}))
		}, refusal{Code: codes.OutOfRange, Reason: fault.JournalReset}},
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
}

func second[T any](_ T, err error) error { return err }

// recv returns the error of a stream's first message.
func recv[M any, S interface{ Recv() (*M, error) }](stream S, err error) error {
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}
