package api

import (
	"context"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/tunnel"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// Services are the services of phonehost.v1. All are required.
type Services struct {
	Phones     phonehostv1.PhoneServiceServer
	Operations phonehostv1.OperationServiceServer
	Events     phonehostv1.EventServiceServer
	Streams    phonehostv1.StreamServiceServer
	Hosts      phonehostv1.HostServiceServer
	Images     phonehostv1.ImageServiceServer
	Commands   phonehostv1.CommandServiceServer
	Files      phonehostv1.FileServiceServer
	Apps       phonehostv1.AppServiceServer
	Data       phonehostv1.DataServiceServer
	Networks   phonehostv1.NetworkPolicyServiceServer
	AppLists   phonehostv1.AppListServiceServer
}

// Server is the one gRPC server that all doors share.
type Server struct {
	*grpc.Server
	// Health is the standard health service that it carries.
	Health *health.Server

	drain context.CancelFunc
}

// endless names the calls that end only when their caller ends them, or the agent does.
var endless = map[string]bool{
	phonehostv1.PhoneService_Watch_FullMethodName:     true,
	phonehostv1.PhoneService_Logs_FullMethodName:      true,
	phonehostv1.OperationService_Watch_FullMethodName: true,
	phonehostv1.EventService_Watch_FullMethodName:     true,
	healthpb.Health_Watch_FullMethodName:              true,

	phonehostv1.NetworkPolicyService_WatchFlows_FullMethodName:   true,
	phonehostv1.NetworkPolicyService_WatchDenials_FullMethodName: true,
	phonehostv1.AppListService_WatchAppDenials_FullMethodName:    true,
}

// NewServer assembles the server. Who may call what is decided by the access interceptors before any handler; connections that came
// through no door are refused.
func NewServer(roles access.Config, services Services) *Server {
	draining, drain := context.WithCancel(context.Background())
	options := append(access.Interceptors(roles), tunnel.ServerOptions()...)
	options = append(options, grpc.ChainStreamInterceptor(endOnDrain(draining)))
	s := &Server{Server: grpc.NewServer(options...), Health: health.NewServer(), drain: drain}
	phonehostv1.RegisterPhoneServiceServer(s, services.Phones)
	phonehostv1.RegisterOperationServiceServer(s, services.Operations)
	phonehostv1.RegisterEventServiceServer(s, services.Events)
	phonehostv1.RegisterStreamServiceServer(s, services.Streams)
	phonehostv1.RegisterHostServiceServer(s, services.Hosts)
	phonehostv1.RegisterImageServiceServer(s, services.Images)
	phonehostv1.RegisterCommandServiceServer(s, services.Commands)
	phonehostv1.RegisterFileServiceServer(s, services.Files)
	phonehostv1.RegisterAppServiceServer(s, services.Apps)
	phonehostv1.RegisterDataServiceServer(s, services.Data)
	phonehostv1.RegisterNetworkPolicyServiceServer(s, services.Networks)
	phonehostv1.RegisterAppListServiceServer(s, services.AppLists)
	healthpb.RegisterHealthServer(s, s.Health)
	reflection.Register(s)
	return s
}

// Drain ends the calls that would not end by themselves with UNAVAILABLE and reason SHUTTING_DOWN, so that GracefulStop has only
// those to wait for that have something to finish.
func (s *Server) Drain() {
	s.Health.Shutdown()
	s.drain()
}

// endOnDrain returns the interceptor that gives endless calls a context which ends with draining.
func endOnDrain(draining context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if !endless[info.FullMethod] {
			return next(srv, stream)
		}
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(draining, cancel)()
		err := next(srv, &drainedStream{ServerStream: stream, ctx: ctx})
		if draining.Err() != nil && stream.Context().Err() == nil && err != nil {
			return statusError(fault.New(errdefs.ErrUnavailable, fault.ShuttingDown, "the agent is shutting down"))
		}
		return err
	}
}

// drainedStream is a stream with another context. The context is the stream's own narrowed: it lives as long as the call.
type drainedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the narrowed context.
func (s *drainedStream) Context() context.Context { return s.ctx }
