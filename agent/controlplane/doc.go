// Package controlplane is what a control plane imports to use agents: it dials agents that listen, takes in agents that dial
// out, and gives out gRPC connections to either.
//
// Both ways end in an *Agent. Agent.Control and Agent.Media return a *grpc.ClientConn on a yamux stream of its own, over the
// agent's control or media session; with it the clients that protobuf generated in proto/phonehost/v1 work as with any other
// connection. Take one connection for commands and one for each stream of video: connections of one session do not wait for
// each other, and a stream that nobody reads stops nobody else.
//
//	agent, err := controlplane.Dial(ctx, "10.0.0.7:7443", controlplane.Config{Certificates: certs, Name: "shelf-7"})
//	conn, err := agent.Control(ctx)
//	phones, err := phonehostv1.NewPhoneServiceClient(conn).ListPhones(ctx, &phonehostv1.ListPhonesRequest{})
//
// Agents behind NAT dial in; a Server takes them in and knows them by the NAME in their certificates, whatever address they
// come from:
//
//	server, err := controlplane.Listen(":7443", controlplane.ServerConfig{Config: controlplane.Config{Certificates: certs}})
//	go server.Serve(ctx)
//	agent, err := server.Wait(ctx, "shelf-7")
//
// An Agent outlives its sessions. When a session is lost, calls fail with UNAVAILABLE until there is another: a dialed agent
// is dialed again at the next call, an agent that dials out comes back by itself. When an agent dials in once more, the newer
// session takes over: the older is drained (connections without calls move over at once) and closed.
//
// The control plane's certificate must be of phonehost://client/NAME; the agent's configuration says what that NAME may do.
//
// Goroutines: each session has its own; Server.Serve owns those of its sessions, Agent.Close ends those of a dialed agent.
package controlplane
