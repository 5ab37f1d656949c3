package controlplane_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/controlplane"
	"github.com/phonehost/phonehost/agent/pki"
	"github.com/phonehost/phonehost/agent/tunnel"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// Example takes in an agent that dials out and lists its phones.
func Example() {
	dir, err := os.MkdirTemp("", "phonehost-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	// The control plane: a certificate of phonehost://client/fleet, and a port for agents.
	server, err := controlplane.Listen("127.0.0.1:0", controlplane.ServerConfig{
		Config: controlplane.Config{Certificates: issue(dir, "client/fleet")},
	})
	if err != nil {
		log.Fatal(err)
	}
	running.Go(func() { _ = server.Serve(ctx) })

	// Elsewhere, an agent that has this control plane in its configuration comes in.
	running.Go(func() { runAgent(ctx, issue(dir, "agent/shelf-7"), server.Addr().String()) })

	// The control plane waits for it and calls it.
	agent, err := server.Wait(ctx, "shelf-7")
	if err != nil {
		log.Fatal(err)
	}
	conn, err := agent.Control(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	resp, err := phonehostv1.NewPhoneServiceClient(conn).ListPhones(ctx, &phonehostv1.ListPhonesRequest{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s has %d phones\n", agent.Name(), len(resp.GetPhones()))
	// Output: shelf-7 has 1 phones
}

// issue makes a certificate, and the authority before the first.
func issue(dir, identity string) *tunnel.Certificates {
	if _, err := os.Stat(filepath.Join(dir, "ca.pem")); err != nil {
		if _, err := pki.Init(dir, pki.CAOptions{}); err != nil {
			log.Fatal(err)
		}
	}
	id, err := access.ParseIdentity(identity)
	if err != nil {
		log.Fatal(err)
	}
	files, err := pki.Issue(dir, id, pki.IssueOptions{})
	if err != nil {
		log.Fatal(err)
	}
	certs, err := tunnel.LoadCertificates(tunnel.CertificateFiles{Cert: files.Cert, Key: files.Key, CA: filepath.Join(dir, "ca.pem")}, nil)
	if err != nil {
		log.Fatal(err)
	}
	return certs
}

// runAgent is the agent's side, as phonehostd does it.
func runAgent(ctx context.Context, certs *tunnel.Certificates, addr string) {
	streams := tunnel.NewStreams()
	roles := access.Roles{Clients: map[string]access.Role{"fleet": access.RoleAdmin}}
	server := grpc.NewServer(append(access.Interceptors(access.Config{Roles: roles}), tunnel.ServerOptions()...)...)
	phonehostv1.RegisterPhoneServiceServer(server, onePhone{})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(streams) })
	out, err := tunnel.NewDialOut(tunnel.DialOutConfig{Addresses: []string{addr}, Certificates: certs, Streams: streams})
	if err != nil {
		log.Fatal(err)
	}
	context.AfterFunc(ctx, server.Stop)
	_ = out.Run(ctx)
	serving.Wait()
}

// onePhone is a PhoneService with one phone.
type onePhone struct {
	phonehostv1.UnimplementedPhoneServiceServer
}

func (onePhone) ListPhones(context.Context, *phonehostv1.ListPhonesRequest) (*phonehostv1.ListPhonesResponse, error) {
	return &phonehostv1.ListPhonesResponse{Phones: []*phonehostv1.Phone{{}}}, nil
}
