package api

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/doctor"
	warnings "github.com/phonehost/phonehost/agent/health"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/binder"
)

// askContainerd is how long GetHost waits for containerd's version.
const askContainerd = 2 * time.Second

// HostConfig is what HostService speaks of. All fields are required.
type HostConfig struct {
	// Name of the agent, Version of its binary, and when it started.
	Name, Version string
	Start         time.Time
	// StateDir holds the phones' data.
	StateDir string
	// PhonesByStatus counts the phones; its index is the status.
	PhonesByStatus func() [6]int
	// Viewers counts the attached viewers.
	Viewers func() int
	// Binder tells what the kernel offers of binder, and how many sets of devices of its pool are free.
	Binder func() (support binder.Support, free int, err error)
	// Logger takes what GetHost could not find out and answers without.
	Logger *slog.Logger
	// ContainerdVersion asks containerd.
	ContainerdVersion func(context.Context) (string, error)
	// Health is the register of warnings.
	Health *warnings.Registry
	// Doctor checks the host.
	Doctor *doctor.Doctor
}

// NewHostServer returns the HostService.
func NewHostServer(cfg HostConfig) phonehostv1.HostServiceServer { return &hostServer{cfg: cfg} }

type hostServer struct {
	phonehostv1.UnimplementedHostServiceServer
	cfg HostConfig
}

func (s *hostServer) GetHost(ctx context.Context, _ *phonehostv1.GetHostRequest) (*phonehostv1.GetHostResponse, error) {
	facts, err := doctor.ReadFacts(s.cfg.StateDir)
	if err != nil {
		return nil, statusError(fmt.Errorf("get host: %w", err))
	}
	host := &phonehostv1.Host{
		Name: s.cfg.Name, Version: s.cfg.Version, StartTime: timestamppb.New(s.cfg.Start),
		Kernel: facts.Kernel, Arch: facts.Arch, Cpus: facts.CPUs,
		MemoryBytes: facts.MemoryBytes, MemoryAvailableBytes: facts.MemoryAvailableBytes,
		DiskBytes: facts.DiskBytes, DiskAvailableBytes: facts.DiskAvailableBytes,
		Viewers: uint32(max(s.cfg.Viewers(), 0)),
	}
	for _, n := range s.cfg.PhonesByStatus() {
		host.PhonesByStatus = append(host.PhonesByStatus, uint32(max(n, 0)))
	}
	for _, f := range s.cfg.Health.List() {
		host.Warnings = append(host.Warnings, warningToProto(f))
	}
	host.Binder = s.binder(ctx)
	ctx, cancel := context.WithTimeout(ctx, askContainerd)
	defer cancel()
	if version, err := s.cfg.ContainerdVersion(ctx); err == nil {
		host.ContainerdVersion = version // otherwise empty, and a warning of the register says why
	}
	return &phonehostv1.GetHostResponse{Host: host}, nil
}

// binder returns what the host has of binder; its kind is UNSPECIFIED if that cannot be found out.
func (s *hostServer) binder(ctx context.Context) *phonehostv1.Binder {
	support, free, err := s.cfg.Binder()
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "what the kernel offers of binder is not known", "error", err)
		return new(phonehostv1.Binder)
	}
	kinds := map[binder.Kind]phonehostv1.BinderKind{
		binder.None: phonehostv1.BinderKind_BINDER_KIND_NONE,
		binder.FS:   phonehostv1.BinderKind_BINDER_KIND_BINDERFS,
		binder.Pool: phonehostv1.BinderKind_BINDER_KIND_POOL,
	}
	return &phonehostv1.Binder{Kind: kinds[support.Kind], Triples: uint32(len(support.Triples)), TriplesFree: uint32(free)}
}

func (s *hostServer) RunDoctor(ctx context.Context, _ *phonehostv1.RunDoctorRequest) (*phonehostv1.RunDoctorResponse, error) {
	findings := s.cfg.Doctor.Run(ctx)
	if err := ctx.Err(); err != nil {
		return nil, statusError(err)
	}
	answer := new(phonehostv1.RunDoctorResponse)
	for _, f := range findings {
		answer.Findings = append(answer.Findings, &phonehostv1.Finding{
			Check: f.Check, Severity: phonehostv1.Severity(f.Severity), Message: clipText(f.Message), Remedy: f.Remedy,
		})
	}
	return answer, nil
}

func warningToProto(f warnings.Finding) *phonehostv1.Warning {
	severity := phonehostv1.Severity_SEVERITY_WARNING
	if f.Severity == warnings.Error {
		severity = phonehostv1.Severity_SEVERITY_ERROR
	}
	return &phonehostv1.Warning{Name: f.Name, Severity: severity, Message: clipText(f.Message), Since: timestamppb.New(f.Since)}
}

// FeedHealth keeps the standard health service's word on the whole server ("") and on the named services as the register
// has it, until stop is called: SERVING unless a warning of severity Error stands.
func FeedHealth(register *warnings.Registry, service *health.Server, services ...string) (stop func()) {
	return register.Subscribe(func(serving bool) {
		status := healthpb.HealthCheckResponse_NOT_SERVING
		if serving {
			status = healthpb.HealthCheckResponse_SERVING
		}
		service.SetServingStatus("", status)
		for _, name := range services {
			service.SetServingStatus(name, status)
		}
	})
}
