package api

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/phonehost/phonehost/agent/access"
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
}

// NewServer returns the one gRPC server that all doors share, and the health service that it carries. Who may call what is decided by
// the access interceptors before any handler; connections that came through no door are refused.
func NewServer(roles access.Config, services Services) (*grpc.Server, *health.Server) {
	options := append(access.Interceptors(roles), tunnel.ServerOptions()...)
	server := grpc.NewServer(options...)
	phonehostv1.RegisterPhoneServiceServer(server, services.Phones)
	phonehostv1.RegisterOperationServiceServer(server, services.Operations)
	phonehostv1.RegisterEventServiceServer(server, services.Events)
	phonehostv1.RegisterStreamServiceServer(server, services.Streams)
	phonehostv1.RegisterHostServiceServer(server, services.Hosts)
	phonehostv1.RegisterImageServiceServer(server, services.Images)
	status := health.NewServer()
	healthpb.RegisterHealthServer(server, status)
	reflection.Register(server)
	return server, status
}
