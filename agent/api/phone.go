package api

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/applist"
	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/container"
)

// maxListed is how many ids ListPhones and Watch take.
const maxListed = 1000

// Guests is what PhoneService needs of the engine that runs containers, beyond what the controllers do (container.Engine).
type Guests interface {
	Exec(ctx context.Context, id string, opts container.ExecOptions) (exitCode uint32, err error)
	ReadLog(ctx context.Context, id string, role container.Role, opts container.LogOptions, send func(container.LogLine) error) error
	Specs(ctx context.Context, p container.Phone) (guest, display *specs.Spec, err error)
}

// DisplayStates is what PhoneService needs of the connections to displays (display.Registry).
type DisplayStates interface {
	// State is what is known; it never waits.
	State(id string) display.State
	// Refresh asks the display for its counters, which State has from then on.
	Refresh(ctx context.Context, id string) (display.State, error)
}

// refreshTime bounds how long answers wait for the displays' counters, which a display sends by itself only now and then: one that
// does not answer in this time is shown as it was last known.
const refreshTime = 300 * time.Millisecond

// PhoneConfig is what PhoneService works with. All fields but AppLists are required.
type PhoneConfig struct {
	Phones   *phone.Supervisor
	Guests   Guests
	Displays DisplayStates
	// Viewers returns how many viewers a phone has.
	Viewers func(id string) int
	// AppLists returns what became of the list of apps that a phone is on, and whether it is on one (applist.Manager.State); nil means that
	// the host has no lists.
	AppLists func(phone.Snapshot) (applist.State, bool)
}

// NewPhoneServer returns the service.
func NewPhoneServer(cfg PhoneConfig) phonehostv1.PhoneServiceServer { return &phoneServer{cfg: cfg} }

type phoneServer struct {
	phonehostv1.UnimplementedPhoneServiceServer
	cfg PhoneConfig
}

// caller returns the identity that asks, as operations and events record it.
func caller(ctx context.Context) string {
	id, found := access.FromContext(ctx)
	if !found {
		return "unknown"
	}
	return id.String()
}

func (s *phoneServer) toProto(snap phone.Snapshot) *phonehostv1.Phone {
	id := snap.Record.Spec.ID
	return s.appListState(phoneToProto(snap, s.cfg.Displays.State(id), s.cfg.Viewers(id)), snap)
}

func (s *phoneServer) CreatePhone(ctx context.Context, q *phonehostv1.CreatePhoneRequest) (*phonehostv1.CreatePhoneResponse, error) {
	if q.GetSpec() == nil {
		return nil, statusError(fault.Field("spec", "is missing"))
	}
	spec, err := specFromProto(q.GetSpec())
	if err != nil {
		return nil, statusError(err)
	}
	if q.GetCloneFrom() == "" {
		snap, err := s.cfg.Phones.Create(ctx, spec)
		if err != nil {
			return nil, statusError(err)
		}
		return &phonehostv1.CreatePhoneResponse{Phone: s.toProto(snap)}, nil
	}
	snap, op, err := s.cfg.Phones.Clone(ctx, spec, q.GetCloneFrom(), caller(ctx))
	if err != nil {
		return nil, statusError(err)
	}
	answer := &phonehostv1.CreatePhoneResponse{Phone: s.toProto(snap)}
	if op != nil {
		answer.Operation = operationToProto(*op)
	}
	return answer, nil
}

// refresh asks the displays of phones for their counters, many at a time.
func (s *phoneServer) refresh(ctx context.Context, snaps ...phone.Snapshot) {
	ctx, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	var asking errgroup.Group
	asking.SetLimit(64)
	for _, snap := range snaps {
		id := snap.Record.Spec.ID
		if !s.cfg.Displays.State(id).Connected {
			continue
		}
		asking.Go(func() error {
			_, _ = s.cfg.Displays.Refresh(ctx, id) // a display that is lost meanwhile is shown as lost
			return nil
		})
	}
	_ = asking.Wait() // none of them returns an error
}

func (s *phoneServer) GetPhone(ctx context.Context, q *phonehostv1.GetPhoneRequest) (*phonehostv1.GetPhoneResponse, error) {
	snap, err := s.cfg.Phones.Get(q.GetPhoneId())
	if err != nil {
		return nil, statusError(err)
	}
	s.refresh(ctx, snap)
	return &phonehostv1.GetPhoneResponse{Phone: s.toProto(snap)}, nil
}

func (s *phoneServer) ListPhones(ctx context.Context, q *phonehostv1.ListPhonesRequest) (*phonehostv1.ListPhonesResponse, error) {
	if len(q.GetPhoneIds()) > maxListed {
		return nil, statusError(tooManyIDs(len(q.GetPhoneIds())))
	}
	snaps := make([]phone.Snapshot, 0, len(q.GetPhoneIds()))
	for _, id := range q.GetPhoneIds() {
		snap, err := s.cfg.Phones.Get(id)
		if err != nil {
			return nil, statusError(err)
		}
		snaps = append(snaps, snap)
	}
	if len(q.GetPhoneIds()) == 0 {
		snaps = s.cfg.Phones.List()
	}
	s.refresh(ctx, snaps...)
	answer := &phonehostv1.ListPhonesResponse{Phones: make([]*phonehostv1.Phone, 0, len(snaps))}
	for _, snap := range snaps {
		answer.Phones = append(answer.Phones, s.toProto(snap))
	}
	return answer, nil
}

func tooManyIDs(n int) error {
	return fault.Field("phone_ids", "%d ids are more than %d", n, maxListed)
}

func (s *phoneServer) BatchGetStatus(_ context.Context, q *phonehostv1.BatchGetStatusRequest) (*phonehostv1.BatchGetStatusResponse, error) {
	ids := q.GetPhoneIds()
	if len(ids) == 0 || len(ids) > maxListed {
		return nil, statusError(fault.Field("phone_ids", "%d ids must be 1..%d", len(ids), maxListed))
	}
	answer := &phonehostv1.BatchGetStatusResponse{Entries: make([]*phonehostv1.PhoneStatusEntry, 0, len(ids))}
	for _, st := range s.cfg.Phones.Statuses(ids) {
		m := &phonehostv1.PhoneStatusEntry{PhoneId: st.ID, Exists: st.Exists}
		if st.Exists {
			m.Status, m.Reason, m.Hold = phonehostv1.PhoneStatus(st.Status), st.Reason, st.Hold
			m.OperationId, m.QueuePosition, m.Revision = st.OperationID, uint32(st.QueuePosition), st.Revision
			m.Streaming = s.cfg.Viewers(st.ID) > 0
			for _, reason := range st.Freezes {
				m.Freezes = append(m.Freezes, phonehostv1.FreezeReason(reason))
			}
		}
		answer.Entries = append(answer.Entries, m)
	}
	return answer, nil
}

func (s *phoneServer) Watch(q *phonehostv1.WatchRequest, stream grpc.ServerStreamingServer[phonehostv1.WatchResponse]) error {
	if n := len(q.GetPhoneIds()); n > maxListed {
		return statusError(tooManyIDs(n))
	}
	w := s.cfg.Phones.Watch(q.GetPhoneIds())
	defer w.Close()
	for synced := false; ; {
		changes, err := w.Next(stream.Context())
		if err != nil {
			return statusError(err)
		}
		for _, c := range changes {
			m := &phonehostv1.WatchResponse{Change: &phonehostv1.WatchResponse_DeletedPhoneId{DeletedPhoneId: c.ID}}
			if !c.Deleted {
				m.Change = &phonehostv1.WatchResponse_Phone{Phone: s.toProto(c.Snapshot)}
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		if !synced {
			synced = true
			if err := stream.Send(&phonehostv1.WatchResponse{Change: &phonehostv1.WatchResponse_Synced{Synced: true}}); err != nil {
				return err
			}
		}
	}
}

func (s *phoneServer) GetSpec(ctx context.Context, q *phonehostv1.GetSpecRequest) (*phonehostv1.GetSpecResponse, error) {
	snap, err := s.cfg.Phones.Get(q.GetPhoneId())
	if err != nil {
		return nil, statusError(err)
	}
	guest, screen, err := s.cfg.Guests.Specs(ctx, s.cfg.Phones.Next(snap))
	if err != nil {
		return nil, statusError(err)
	}
	answer := &phonehostv1.GetSpecResponse{}
	if answer.Guest, err = encodeSpec(guest); err == nil {
		answer.Display, err = encodeSpec(screen)
	}
	return answer, statusError(err)
}

// encodeSpec writes an OCI spec as people read it.
func encodeSpec(spec *specs.Spec) (string, error) {
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode spec: %w: %w", err, errdefs.ErrInternal)
	}
	return string(data), nil
}
