package e2e

import (
	"encoding/json"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/agent/client"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMBinderPool has two phones on a host whose kernel has binder devices for one, and looks at what an SRE and a control plane are
// told: one phone at a time.
func TestVMBinderPool(t *testing.T) {
	targets := vm.On("6.1").System().Nightly()
	vm.Each(t, targets, func(t *testing.T, m *vm.Machine) {
		s := newServer(t, m)
		s.wantBinder("none", hostBinder{Kind: "BINDER_KIND_NONE"})
		s.run("modprobe binder_linux devices=binder,hwbinder,vndbinder")
		s.wantBinder("pool, 1 of 1 triples free", hostBinder{Kind: "BINDER_KIND_POOL", Triples: 1, TriplesFree: 1})
		for _, id := range []string{"p1", "p2"} {
			s.ctl("create", id, "--image", "phonehost.dev/testphone:latest", "--memory", "192MiB", "--data", "64MiB", "--display", "320x480@30")
		}
		s.ctl("on", "p1")
		s.ctl("exec", "p1", "--", "service", "ping")
		s.wantBinder("pool, 0 of 1 triples free", hostBinder{Kind: "BINDER_KIND_POOL", Triples: 1})
		requireContains(t, s.refused(1, "on", "p2"), "phonectl: phone p2 cannot be started: all sets of binder devices of this host (1) are in use",
			"power a phone off, load binder_linux with more names in devices=", "see what the kernel offers: `phonectl doctor`; power a phone off: `phonectl off ID`")
		s.refusedWithoutBinder("p2")
		if p := s.show("p2"); p.Status != "PHONE_STATUS_STOPPED" || p.LastFail != nil {
			t.Errorf("the phone that was refused: %+v", p)
		}
		s.ctl("off", "p1")
		s.wantBinder("pool, 1 of 1 triples free", hostBinder{Kind: "BINDER_KIND_POOL", Triples: 1, TriplesFree: 1})
		s.ctl("on", "p2")
		s.ctl("exec", "p2", "--", "service", "ping")
		s.refusedWithoutBinder("p1")
	}, onServer()...)
}

// hostBinder is what GetHost says of binder.
type hostBinder struct {
	Kind                 string
	Triples, TriplesFree uint32
}

// wantBinder compares what the host says of binder, to people and to programs.
func (s *server) wantBinder(text string, want hostBinder) {
	s.t.Helper()
	requireContains(s.t, s.ctl("host"), "\nbinder      "+text+"\n")
	var host struct{ Binder hostBinder }
	if err := json.Unmarshal([]byte(s.ctl("host", "-o", "json")), &host); err != nil {
		s.t.Fatal(err)
	}
	if host.Binder != want {
		s.t.Errorf("GetHost has binder %+v, want %+v", host.Binder, want)
	}
}

// refusedWithoutBinder powers a phone on as a control plane does, and wants the refusal that a program understands.
func (s *server) refusedWithoutBinder(id string) {
	s.t.Helper()
	c, err := client.Dial(s.t.Context(), client.Options{
		Host: "tls://" + s.m.Forward(7443), CA: s.path("pki", "ca.pem"), Cert: s.path("pki", "client-fleet.pem"), Key: s.path("pki", "client-fleet-key.pem"),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	_, err = phonehostv1.NewPhoneServiceClient(c.Control()).PowerOn(s.t.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{id}})
	st := status.Convert(err)
	reason := ""
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	if st.Code() != codes.ResourceExhausted || reason != "NO_BINDER" {
		s.t.Errorf("PowerOn of %s: %v, reason %q; want RESOURCE_EXHAUSTED, NO_BINDER", id, err, reason)
	}
}
