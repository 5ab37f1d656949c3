package api

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/phonehost/phonehost/agent/doctor"
	"github.com/phonehost/phonehost/agent/health"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/binder"
)

func TestHost(t *testing.T) {
	m := newMedia(t)
	answer, err := m.hosts.GetHost(t.Context(), &phonehostv1.GetHostRequest{})
	if err != nil {
		t.Fatal(err)
	}
	h := answer.GetHost()
	if h.GetName() != "host-1" || h.GetVersion() != "1.2.3" || h.GetContainerdVersion() != "1.6.20" || h.GetStartTime().GetSeconds() != 1000 ||
		h.GetCpus() == 0 || h.GetMemoryBytes() == 0 || h.GetDiskBytes() == 0 || h.GetKernel() == "" || h.GetArch() == "" {
		t.Errorf("host %v", h)
	}
	if diff := cmp.Diff([]uint32{0, 1, 2, 0, 0, 3}, h.GetPhonesByStatus()); diff != "" {
		t.Errorf("phones by status (-want +got):\n%s", diff)
	}
	m.health.Set("containerd-lost", health.Error, "no answer")
	m.health.Set("disk-low", health.Warning, "2 GiB left")
	if answer, err = m.hosts.GetHost(t.Context(), &phonehostv1.GetHostRequest{}); err != nil {
		t.Fatal(err)
	}
	w := answer.GetHost().GetWarnings()
	if len(w) != 2 || w[0].GetName() != "containerd-lost" || w[0].GetSeverity() != phonehostv1.Severity_SEVERITY_ERROR ||
		w[1].GetSeverity() != phonehostv1.Severity_SEVERITY_WARNING || w[1].GetMessage() != "2 GiB left" || !w[1].GetSince().IsValid() {
		t.Errorf("warnings %v", w)
	}
	if v := answer.GetHost().GetContainerdVersion(); v != "" {
		t.Errorf("containerd's version is %q while it does not answer", v)
	}
	found, err := m.hosts.RunDoctor(t.Context(), &phonehostv1.RunDoctorRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(found.GetFindings()), len(doctor.Checks()); got != want {
		t.Errorf("%d findings, want %d", got, want)
	}
	for i, f := range found.GetFindings() {
		if f.GetCheck() != doctor.Checks()[i].Name || f.GetSeverity() == phonehostv1.Severity_SEVERITY_UNSPECIFIED || f.GetMessage() == "" {
			t.Errorf("finding %v", f)
		}
	}
}

func TestHostTellsOfBinder(t *testing.T) {
	m := newMedia(t)
	for _, tt := range []struct {
		name    string
		support binder.Support
		free    int
		err     error
		want    *phonehostv1.Binder
	}{
		{"none", binder.Support{}, 0, nil, &phonehostv1.Binder{Kind: phonehostv1.BinderKind_BINDER_KIND_NONE}},
		{"binderfs", binder.Support{Kind: binder.FS, Major: 510}, 0, nil, &phonehostv1.Binder{Kind: phonehostv1.BinderKind_BINDER_KIND_BINDERFS}},
		{"pool", binder.Support{Kind: binder.Pool, Triples: make([]binder.Triple, 3)}, 2, nil,
			&phonehostv1.Binder{Kind: phonehostv1.BinderKind_BINDER_KIND_POOL, Triples: 3, TriplesFree: 2}},
		{"not known", binder.Support{}, 0, errors.New("no /proc"), new(phonehostv1.Binder)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m.binder = func() (binder.Support, int, error) { return tt.support, tt.free, tt.err }
			answer, err := m.hosts.GetHost(t.Context(), new(phonehostv1.GetHostRequest))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, answer.GetHost().GetBinder(), protocmp.Transform()); diff != "" {
				t.Errorf("binder (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFeedHealth(t *testing.T) {
	register, service := health.New(nil), grpchealth.NewServer()
	check := func(name string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		answer, err := service.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
		if err != nil || answer.GetStatus() != want {
			t.Errorf("%q: %v, %v; want %v", name, answer, err, want)
		}
	}
	stop := FeedHealth(register, service, "phonehost.v1.PhoneService")
	check("phonehost.v1.PhoneService", healthpb.HealthCheckResponse_SERVING)
	register.Set("x", health.Error, "broken")
	check("", healthpb.HealthCheckResponse_NOT_SERVING)
	check("phonehost.v1.PhoneService", healthpb.HealthCheckResponse_NOT_SERVING)
	register.Clear("x")
	check("", healthpb.HealthCheckResponse_SERVING)
	stop()
	register.Set("x", health.Error, "broken")
	check("", healthpb.HealthCheckResponse_SERVING)
}
