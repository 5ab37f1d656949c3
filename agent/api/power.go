package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// powerRequest is what the messages of the power requests have in common.
type powerRequest interface {
	GetPhoneIds() []string
	GetRequestId() string
}

// submit hands a power request to the supervisor and returns the accepted operation.
func (s *phoneServer) submit(ctx context.Context, kind operation.Kind, q powerRequest, edit func(*phone.Request) error) (*phonehostv1.Operation, error) {
	request := phone.Request{Kind: kind, IDs: q.GetPhoneIds(), RequestID: q.GetRequestId(), RequestedBy: caller(ctx)}
	if edit != nil {
		if err := edit(&request); err != nil {
			return nil, statusError(err)
		}
	}
	op, err := s.cfg.Phones.Submit(ctx, request)
	if err != nil {
		return nil, statusError(err)
	}
	return operationToProto(op), nil
}

// graceOf reads an optional grace.
func graceOf(m *durationpb.Duration) (*time.Duration, error) {
	if m == nil {
		return nil, nil
	}
	if err := m.CheckValid(); err != nil {
		return nil, fault.Field("grace", "is not a duration: %v", err)
	}
	grace := m.AsDuration()
	return &grace, nil
}

func (s *phoneServer) PowerOn(ctx context.Context, q *phonehostv1.PowerOnRequest) (*phonehostv1.PowerOnResponse, error) {
	op, err := s.submit(ctx, operation.PowerOn, q, nil)
	return &phonehostv1.PowerOnResponse{Operation: op}, err
}

func (s *phoneServer) PowerOff(ctx context.Context, q *phonehostv1.PowerOffRequest) (*phonehostv1.PowerOffResponse, error) {
	op, err := s.submit(ctx, operation.PowerOff, q, func(r *phone.Request) (err error) {
		r.Force = q.GetForce()
		r.Grace, err = graceOf(q.GetGrace())
		return err
	})
	return &phonehostv1.PowerOffResponse{Operation: op}, err
}

func (s *phoneServer) Restart(ctx context.Context, q *phonehostv1.RestartRequest) (*phonehostv1.RestartResponse, error) {
	op, err := s.submit(ctx, operation.Restart, q, func(r *phone.Request) (err error) {
		r.Force, r.Image = q.GetForce(), q.GetImage()
		r.Grace, err = graceOf(q.GetGrace())
		return err
	})
	return &phonehostv1.RestartResponse{Operation: op}, err
}

func (s *phoneServer) Reset(ctx context.Context, q *phonehostv1.ResetRequest) (*phonehostv1.ResetResponse, error) {
	op, err := s.submit(ctx, operation.Reset, q, func(r *phone.Request) error { r.Image = q.GetImage(); return nil })
	return &phonehostv1.ResetResponse{Operation: op}, err
}

func (s *phoneServer) Delete(ctx context.Context, q *phonehostv1.DeleteRequest) (*phonehostv1.DeleteResponse, error) {
	op, err := s.submit(ctx, operation.Delete, q, func(r *phone.Request) error { r.Force = q.GetForce(); return nil })
	return &phonehostv1.DeleteResponse{Operation: op}, err
}

func (s *phoneServer) Freeze(ctx context.Context, q *phonehostv1.FreezeRequest) (*phonehostv1.FreezeResponse, error) {
	op, err := s.submit(ctx, operation.Freeze, q, func(r *phone.Request) (err error) {
		r.Freeze, r.Force = phone.FreezeReason(q.GetReason()), q.GetForce()
		r.Grace, err = graceOf(q.GetGrace())
		return err
	})
	return &phonehostv1.FreezeResponse{Operation: op}, err
}

func (s *phoneServer) Unfreeze(ctx context.Context, q *phonehostv1.UnfreezeRequest) (*phonehostv1.UnfreezeResponse, error) {
	op, err := s.submit(ctx, operation.Unfreeze, q, func(r *phone.Request) error {
		for _, reason := range q.GetReasons() {
			r.Unfreeze = append(r.Unfreeze, phone.FreezeReason(reason))
		}
		return nil
	})
	return &phonehostv1.UnfreezeResponse{Operation: op}, err
}

func (s *phoneServer) Update(ctx context.Context, q *phonehostv1.UpdateRequest) (*phonehostv1.UpdateResponse, error) {
	op, err := s.submit(ctx, operation.Update, q, func(r *phone.Request) error {
		spec, err := specFromProto(q.GetSpec())
		r.Patch = &phone.Patch{Spec: spec, Fields: q.GetUpdateMask().GetPaths()}
		return err
	})
	return &phonehostv1.UpdateResponse{Operation: op}, err
}
