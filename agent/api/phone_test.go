package api

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

func TestPhoneOverItsLife(t *testing.T) {
	s := start(t)
	made := s.create(t, "p1")
	if made.GetStatus() != phonehostv1.PhoneStatus_PHONE_STATUS_STOPPED || made.GetSpec().GetProfile() != "testphone" ||
		made.GetSpec().GetImage() != "phonehost.dev/testphone:latest" || made.GetSpec().GetDisplay().GetWidth() != 720 || made.GetDisplay() != nil {
		t.Errorf("new phone: %v", made)
	}
	on, err := s.phones.PowerOn(t.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{"p1"}, RequestId: "r1"})
	if err != nil {
		t.Fatal(err)
	}
	op := s.finish(t, on.GetOperation())
	if op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED || op.GetRequestedBy() != "uid/0" || op.GetRequestId() != "r1" {
		t.Errorf("operation: %v", op)
	}
	got, err := s.phones.GetPhone(t.Context(), &phonehostv1.GetPhoneRequest{PhoneId: "p1"})
	if err != nil {
		t.Fatal(err)
	}
	p := got.GetPhone()
	if p.GetStatus() != phonehostv1.PhoneStatus_PHONE_STATUS_RUNNING || !p.GetStreaming() || p.GetViewers() != 2 || p.GetInitPid() == 0 ||
		p.GetStartTime() == nil || p.GetBootTime() == nil || p.GetLastBootDuration() == nil || p.GetRevision() <= made.GetRevision() ||
		p.GetDisplay().GetFramesCommitted() != 3 || p.GetOperationId() != "" || p.GetBootGeneration() != 1 || p.GetDataGeneration() != 1 {
		t.Errorf("running phone: %v", p)
	}
	listed, err := s.phones.ListPhones(t.Context(), &phonehostv1.ListPhonesRequest{})
	if err != nil || listed.GetPhones()[0].GetDisplay().GetFramesCommitted() != 6 {
		t.Errorf("list with the display's newest counters: %v %v", listed, err)
	}
	spec, err := s.phones.GetSpec(t.Context(), &phonehostv1.GetSpecRequest{PhoneId: "p1"})
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid([]byte(spec.GetGuest())) || !strings.Contains(spec.GetDisplay(), `"p1.display"`) {
		t.Errorf("specs: %v", spec)
	}
	list, err := s.ops.ListOperations(t.Context(), &phonehostv1.ListOperationsRequest{PhoneId: "p1"})
	if err != nil || len(list.GetOperations()) != 1 {
		t.Errorf("operations: %v %v", list, err)
	}
	for _, call := range []func() (*phonehostv1.Operation, error){
		func() (*phonehostv1.Operation, error) {
			m, err := s.phones.Restart(t.Context(), &phonehostv1.RestartRequest{PhoneIds: []string{"p1"}, Force: true})
			return m.GetOperation(), err
		},
		func() (*phonehostv1.Operation, error) {
			m, err := s.phones.Reset(t.Context(), &phonehostv1.ResetRequest{PhoneIds: []string{"p1"}})
			return m.GetOperation(), err
		},
		func() (*phonehostv1.Operation, error) {
			m, err := s.phones.PowerOff(t.Context(), &phonehostv1.PowerOffRequest{PhoneIds: []string{"p1"}, Force: true})
			return m.GetOperation(), err
		},
		func() (*phonehostv1.Operation, error) {
			m, err := s.phones.Delete(t.Context(), &phonehostv1.DeleteRequest{PhoneIds: []string{"p1"}})
			return m.GetOperation(), err
		},
	} {
		op, err := call()
		if err != nil {
			t.Fatal(err)
		}
		if op = s.finish(t, op); op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
			t.Errorf("%v", op)
		}
	}
	phones, err := s.phones.ListPhones(t.Context(), &phonehostv1.ListPhonesRequest{})
	if err != nil || len(phones.GetPhones()) != 0 {
		t.Errorf("phones after the deletion: %v %v", phones, err)
	}
	var kinds []phonehostv1.EventKind
	watch, err := s.events.Watch(t.Context(), &phonehostv1.EventServiceWatchRequest{NoFollow: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := watch.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range m.GetEvents() {
			kinds = append(kinds, e.GetKind())
		}
	}
	if len(kinds) < 15 || kinds[0] != phonehostv1.EventKind_EVENT_KIND_PHONE_CREATED {
		t.Errorf("events: %v", kinds)
	}
}

func TestWatchPhones(t *testing.T) {
	s := start(t)
	s.create(t, "p1")
	watch, err := s.phones.Watch(t.Context(), &phonehostv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *phonehostv1.WatchResponse {
		t.Helper()
		m, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := next(); m.GetPhone().GetSpec().GetId() != "p1" {
		t.Errorf("first: %v", m)
	}
	if m := next(); !m.GetSynced() {
		t.Errorf("after the listing: %v", m)
	}
	s.on(t, "p2")
	last := phonehostv1.PhoneStatus(-1)
	for last != phonehostv1.PhoneStatus_PHONE_STATUS_RUNNING {
		m := next()
		if m.GetPhone().GetSpec().GetId() != "p2" {
			t.Fatalf("change: %v", m)
		}
		last = m.GetPhone().GetStatus()
	}
	if _, err := s.phones.Delete(t.Context(), &phonehostv1.DeleteRequest{PhoneIds: []string{"p1"}}); err != nil {
		t.Fatal(err)
	}
	for next().GetDeletedPhoneId() != "p1" {
	}
}

// TestNumbersAreTheAPIs compares the numbers of the domain with those of the API, since they are converted as numbers.
func TestNumbersAreTheAPIs(t *testing.T) {
	word := func(s string) string { return strings.ToUpper(strings.ReplaceAll(s, " ", "_")) }
	compare := func(e protoreflect.EnumDescriptor, prefix string, n int, name string) {
		t.Helper()
		v := e.Values().ByNumber(protoreflect.EnumNumber(n))
		if v == nil || string(v.Name()) != prefix+name {
			t.Errorf("%d is %v in the API and %s%s here", n, v, prefix, name)
		}
	}
	for n := range 6 {
		compare(phonehostv1.PhoneStatus(0).Descriptor(), "PHONE_STATUS_", n, phone.Status(n).String())
	}
	for _, k := range operation.Kinds() {
		compare(phonehostv1.OperationKind(0).Descriptor(), "OPERATION_KIND_", int(k), word(k.String()))
	}
	for st := operation.Running; st <= operation.Aborted; st++ {
		compare(phonehostv1.OperationState(0).Descriptor(), "OPERATION_STATE_", int(st), word(st.String()))
	}
	for n, name := range map[phone.RestartPolicy]string{phone.Always: "ALWAYS", phone.OnGuestReboot: "ON_GUEST_REBOOT", phone.Never: "NEVER"} {
		compare(phonehostv1.RestartPolicy(0).Descriptor(), "RESTART_POLICY_", int(n), name)
	}
	for f := phone.FrozenExpired; f <= phone.FrozenAdmin; f++ {
		compare(phonehostv1.FreezeReason(0).Descriptor(), "FREEZE_REASON_", int(f), f.String())
	}
	if got := phonehostv1.FreezeReason(0).Descriptor().Values().Len() - 1; got != int(phone.FrozenAdmin) {
		t.Errorf("the API knows %d reasons to freeze", got)
	}
	kinds := map[event.Kind]string{
		event.PhoneCreated: "PHONE_CREATED", event.PhoneDeleted: "PHONE_DELETED", event.PhoneStatus: "PHONE_STATUS",
		event.GuestStarted: "GUEST_STARTED", event.GuestBooted: "GUEST_BOOTED", event.GuestExited: "GUEST_EXITED",
		event.DisplayStarted: "DISPLAY_STARTED", event.DisplayExited: "DISPLAY_EXITED",
		event.OperationStarted: "OPERATION_STARTED", event.OperationEnded: "OPERATION_ENDED",
		event.AgentStarted: "AGENT_STARTED", event.AgentStopping: "AGENT_STOPPING",
		event.ContainerdLost: "CONTAINERD_LOST", event.ContainerdBack: "CONTAINERD_BACK",
		event.SessionOpened: "SESSION_OPENED", event.SessionClosed: "SESSION_CLOSED", event.SessionRefused: "SESSION_REFUSED",
		event.ViewerAttached: "VIEWER_ATTACHED", event.ViewerDetached: "VIEWER_DETACHED", event.OrphanRemoved: "ORPHAN_REMOVED",
		event.PhoneFrozen: "PHONE_FROZEN", event.PhoneUnfrozen: "PHONE_UNFROZEN", event.PhoneUpdated: "PHONE_UPDATED",
		event.DataChecked: "DATA_CHECKED", event.NetworkDenied: "NETWORK_DENIED", event.PolicyChanged: "NETWORK_POLICY_CHANGED",
		event.NameServerExited: "NAME_SERVER_EXITED", event.AppDenied: "APP_DENIED", event.AppListChanged: "APP_LIST_CHANGED",
	}
	if got := phonehostv1.EventKind(0).Descriptor().Values().Len() - 1; got != len(kinds) {
		t.Errorf("the API knows %d kinds of events, this test %d", got, len(kinds))
	}
	for n, name := range kinds {
		compare(phonehostv1.EventKind(0).Descriptor(), "EVENT_KIND_", int(n), name)
	}
}

// TestDrain ends watches when the agent shuts down, and says so.
func TestDrain(t *testing.T) {
	s := start(t)
	watch, err := s.phones.Watch(t.Context(), &phonehostv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := watch.Recv(); err != nil || !m.GetSynced() {
		t.Fatalf("%v %v", m, err)
	}
	s.api.Drain()
	_, err = watch.Recv()
	if got, want := readError(t, err), (refusal{Code: codes.Unavailable, Reason: fault.ShuttingDown}); got != want {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
	if _, err := s.phones.ListPhones(t.Context(), &phonehostv1.ListPhonesRequest{}); err != nil {
		t.Errorf("a call that ends by itself: %v", err)
	}
}
