package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/network"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/nat"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// TestForwardsThatTheHostCannotTakeOn refuses ports that processes of this very host have, and addresses that it does not have, as the engine of
// networks sees them. What is refused is not stored, and what a phone has stays its own.
func TestForwardsThatTheHostCannotTakeOn(t *testing.T) {
	s := startOver(t, newWires())
	s.create(t, "p1")
	table, err := nat.New(nat.Config{Pool4: netip.MustParsePrefix("10.213.0.0/16"), Timeouts: nat.Timeouts{
		TCPNew: time.Second, TCPEstablished: time.Hour, TCPClosing: time.Minute, TCPClosed: time.Second, UDPNew: time.Second, UDPEstablished: time.Minute,
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.world.Lock()
	s.world.CheckForward = func(ctx context.Context, f netpolicy.Forward) error { return table.Check(ctx, f.Protocol, f.Listen) }
	s.world.Unlock()
	// A listener of the agent's own process is a process of the host like others.
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	taken := listener.Addr().String()
	_, port, _ := net.SplitHostPort(taken)
	add := func(listen string, protocol phonehostv1.NetworkProtocol) error {
		_, err := s.networks.AddForward(t.Context(), &phonehostv1.AddForwardRequest{PhoneId: "p1", Forward: &phonehostv1.Forward{Listen: listen, Protocol: protocol, Port: 5555}})
		return err
	}
	spec := func(id string, listen ...string) *phonehostv1.CreatePhoneRequest {
		n := &phonehostv1.NetworkSpec{}
		for _, l := range listen {
			n.Forwards = append(n.Forwards, &phonehostv1.Forward{Listen: l, Port: 5555})
		}
		return &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{Id: id, Image: "testphone", MemoryBytes: 256 << 20, Network: n}}
	}
	create := func(id string, listen ...string) error {
		_, err := s.phones.CreatePhone(t.Context(), spec(id, listen...))
		return err
	}
	const tcp, udp = phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_TCP, phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_UDP
	me := fmt.Sprintf("(pid %d) listens on %s", os.Getpid(), taken)
	inUse := refusal{Code: codes.AlreadyExists, Reason: fault.PortTaken}
	for name, tt := range map[string]struct {
		err  error
		want refusal
		says string
	}{
		"add":              {add(taken, tcp), inUse, me},
		"add, no protocol": {add(taken, 0), inUse, me},
		"add at all":       {add("0.0.0.0:"+port, tcp), inUse, me},
		"add elsewhere":    {add("203.0.113.7:"+port, tcp), refusal{codes.InvalidArgument, fault.InvalidField, "forward.listen"}, "203.0.113.7 is no address of this host; 127.0.0.1, "},
		"add link-local":   {add("169.254.0.1:1", tcp), refusal{codes.InvalidArgument, fault.InvalidField, "forward.listen"}, "routers know"},
		"create":           {create("p2", taken), inUse, me},
		"create elsewhere": {create("p2", "127.0.0.1:1", "203.0.113.7:1"), refusal{codes.InvalidArgument, fault.InvalidField, "spec.network.forwards[1].listen"}, "no address of this host"},
	} {
		if got := readError(t, tt.err); got != tt.want || !strings.Contains(tt.err.Error(), tt.says) {
			t.Errorf("%s: %+v (%v), want %+v that says %q", name, got, tt.err, tt.want, tt.says)
		}
	}
	if list, err := s.networks.ListForwards(t.Context(), &phonehostv1.ListForwardsRequest{}); err != nil || len(list.GetForwards()) != 0 {
		t.Errorf("what was refused is stored: %v, %v", list, err)
	}
	if _, err := s.phones.GetPhone(t.Context(), &phonehostv1.GetPhoneRequest{PhoneId: "p2"}); err == nil {
		t.Error("a phone that was refused is there")
	}
	if err := add(taken, udp); err != nil {
		t.Errorf("another protocol: %v", err)
	}
	listener.Close()
	// Once it is the phone's, it stays its own, though a process takes the port.
	for _, id := range []string{"p1", "p3"} {
		if err := map[string]func() error{"p1": func() error { return add(taken, tcp) }, "p3": func() error { return create("p3", "127.0.0.3:"+port) }}[id](); err != nil {
			t.Fatal(err)
		}
	}
	for _, address := range []string{taken, "127.0.0.3:" + port} {
		again, err := net.Listen("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
	}
	if err := add(taken, tcp); err != nil {
		t.Errorf("the same forward again: %v", err)
	}
	if err := create("p3", "127.0.0.3:"+port); err != nil {
		t.Errorf("the same phone again: %v", err)
	}
}

// TestForwardsOfAHostThatCannotHaveNetworks refuses forwards where networks are enabled and could not be opened: nobody can say whether a port is free.
func TestForwardsOfAHostThatCannotHaveNetworks(t *testing.T) {
	s := startOver(t, newWires())
	s.create(t, "p1")
	s.world.Lock()
	s.world.CheckForward = network.Unavailable{Err: errors.New("the pool is taken")}.CheckForward
	s.world.Unlock()
	_, err := s.networks.AddForward(t.Context(), &phonehostv1.AddForwardRequest{PhoneId: "p1", Forward: &phonehostv1.Forward{Listen: "127.0.0.1:6001", Port: 5555}})
	want := refusal{Code: codes.FailedPrecondition, Reason: fault.NetworkDisabled}
	if got := readError(t, err); got != want || !strings.Contains(err.Error(), "the pool is taken") {
		t.Errorf("%+v (%v), want %+v that says why", got, err, want)
	}
}
