package api

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/network"
	"github.com/phonehost/phonehost/netpolicy"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// TestEveryNetworkError calls every method in every way that is refused.
func TestEveryNetworkError(t *testing.T) {
	s := startOver(t, newWires())
	s.create(t, "p1")
	ctx := t.Context()
	put := func(name string, chunks ...string) error { _, err := s.put(t, name, chunks...); return err }
	create := func(n *phonehostv1.NetworkSpec) error {
		_, err := s.phones.CreatePhone(ctx, &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{Id: "new", Image: "testphone", MemoryBytes: 256 << 20, Network: n}})
		return err
	}
	add := func(id string, f *phonehostv1.Forward) error {
		_, err := s.networks.AddForward(ctx, &phonehostv1.AddForwardRequest{PhoneId: id, Forward: f})
		return err
	}
	test := func(q *phonehostv1.TestConnectionRequest) error {
		_, err := s.networks.TestConnection(ctx, q)
		return err
	}
	many := make([]string, maxListed+1)
	if err := add("p1", &phonehostv1.Forward{Listen: "127.0.0.1:6001", Port: 1}); err != nil {
		t.Fatal(err)
	}
	s.create(t, "p2")
	invalid := func(field string) refusal { return refusal{codes.InvalidArgument, fault.InvalidField, field} }
	noPhone := refusal{Code: codes.NotFound, Reason: fault.NoSuchPhone}
	for name, tt := range map[string]struct {
		err  error
		want refusal
	}{
		"put without start":       {s.putRaw(t, &phonehostv1.PutPolicyRequest{}), invalid("start")},
		"put nothing":             {s.putRaw(t), invalid("start")},
		"put a wrong name":        {put("A"), invalid("start.name")},
		"put the built-in":        {put(netpolicy.DefaultPolicy), invalid("start.name")},
		"put what is none":        {put("a", "wr", "ong"), refusal{Code: codes.InvalidArgument, Reason: network.BadPolicy}},
		"put too much":            {put("a", slices.Repeat([]string{strings.Repeat("#", maxChunk)}, 65)...), invalid("chunk")},
		"get":                     {err3(s.policy(t, "none")), refusal{Code: codes.NotFound, Reason: fault.NoSuchPolicy}},
		"delete":                  {err2(s.networks.DeletePolicy(ctx, &phonehostv1.DeletePolicyRequest{Name: "none"})), refusal{Code: codes.NotFound, Reason: fault.NoSuchPolicy}},
		"assign nobody":           {err2(s.networks.AssignPolicy(ctx, &phonehostv1.AssignPolicyRequest{Policy: "a"})), invalid("phone_ids")},
		"assign nothing":          {err2(s.networks.AssignPolicy(ctx, &phonehostv1.AssignPolicyRequest{PhoneIds: []string{"p1"}})), invalid("policy")},
		"assign what is not":      {err2(s.networks.AssignPolicy(ctx, &phonehostv1.AssignPolicyRequest{PhoneIds: []string{"p1"}, Policy: "x"})), refusal{Code: codes.NotFound, Reason: fault.NoSuchPolicy}},
		"limit nothing":           {err2(s.networks.SetLimits(ctx, &phonehostv1.SetLimitsRequest{PhoneIds: []string{"p1"}})), invalid("up_bits_per_second")},
		"limit":                   {err2(s.networks.SetLimits(ctx, &phonehostv1.SetLimitsRequest{PhoneIds: []string{"p1"}, UpBitsPerSecond: new(uint64(1))})), invalid("up_bits_per_second")},
		"cut nobody":              {err2(s.networks.CutNetwork(ctx, &phonehostv1.CutNetworkRequest{})), invalid("phone_ids")},
		"restore nobody":          {err2(s.networks.RestoreNetwork(ctx, &phonehostv1.RestoreNetworkRequest{})), invalid("phone_ids")},
		"network of nobody":       {err2(s.networks.GetPhoneNetwork(ctx, &phonehostv1.GetPhoneNetworkRequest{})), noPhone},
		"forward without":         {add("p1", nil), invalid("forward.listen")},
		"forward far":             {add("p1", &phonehostv1.Forward{Listen: "127.0.0.1:1", Port: 65536}), invalid("forward.port")},
		"forward of a name":       {add("p1", &phonehostv1.Forward{Listen: "localhost:1", Port: 1}), invalid("forward.listen")},
		"forward to nobody":       {add("p9", &phonehostv1.Forward{Listen: "127.0.0.1:1", Port: 1}), noPhone},
		"forward taken":           {add("p2", &phonehostv1.Forward{Listen: "0.0.0.0:6001", Port: 1}), refusal{Code: codes.AlreadyExists, Reason: fault.ForwardTaken}},
		"remove forward":          {err2(s.networks.RemoveForward(ctx, &phonehostv1.RemoveForwardRequest{PhoneId: "p2", Listen: "127.0.0.1:6001"})), refusal{Code: codes.NotFound, Reason: fault.NoSuchForward}},
		"remove what is none":     {err2(s.networks.RemoveForward(ctx, &phonehostv1.RemoveForwardRequest{PhoneId: "p2", Listen: "6001"})), invalid("listen")},
		"forwards of nobody":      {err2(s.networks.ListForwards(ctx, &phonehostv1.ListForwardsRequest{PhoneIds: []string{"p9"}})), noPhone},
		"forwards of many":        {err2(s.networks.ListForwards(ctx, &phonehostv1.ListForwardsRequest{PhoneIds: many})), invalid("phone_ids")},
		"test nobody":             {test(&phonehostv1.TestConnectionRequest{}), noPhone},
		"test no peer":            {test(&phonehostv1.TestConnectionRequest{PhoneId: "p1", Port: 1}), invalid("peer")},
		"test no port":            {test(&phonehostv1.TestConnectionRequest{PhoneId: "p1", Peer: "192.0.2.1"}), invalid("port")},
		"test a name towards":     {test(&phonehostv1.TestConnectionRequest{PhoneId: "p1", Peer: "a.example", Port: 1, Direction: 2}), invalid("peer")},
		"test no direction":       {test(&phonehostv1.TestConnectionRequest{PhoneId: "p1", Peer: "192.0.2.1", Port: 1, Direction: 9}), invalid("direction")},
		"test no protocol":        {test(&phonehostv1.TestConnectionRequest{PhoneId: "p1", Peer: "192.0.2.1", Port: 1, Protocol: 9}), invalid("protocol")},
		"flows of nobody":         {drained(s.networks.ListFlows(ctx, &phonehostv1.ListFlowsRequest{})), noPhone},
		"flows of many":           {drained(s.networks.WatchFlows(ctx, &phonehostv1.WatchFlowsRequest{PhoneIds: many})), invalid("phone_ids")},
		"denials of many":         {drained(s.networks.WatchDenials(ctx, &phonehostv1.WatchDenialsRequest{PhoneIds: many})), invalid("phone_ids")},
		"create with no address":  {create(&phonehostv1.NetworkSpec{Ipv4: "x"}), invalid("spec.network.ipv4")},
		"create with a zone":      {create(&phonehostv1.NetworkSpec{Ipv6: "fe80::1%eth0"}), invalid("spec.network.ipv6")},
		"create taken":            {create(&phonehostv1.NetworkSpec{Ipv4: "10.213.0.2"}), refusal{Code: codes.AlreadyExists, Reason: fault.AddressTaken}},
		"create with no policy":   {create(&phonehostv1.NetworkSpec{Policy: "x"}), refusal{Code: codes.NotFound, Reason: fault.NoSuchPolicy}},
		"create with no protocol": {create(&phonehostv1.NetworkSpec{Forwards: []*phonehostv1.Forward{{Listen: "127.0.0.1:1", Port: 1, Protocol: 257}}}), invalid("spec.network.forwards[0].protocol")},
	} {
		if got := readError(t, tt.err); got != tt.want {
			t.Errorf("%s: %+v (%v), want %+v", name, got, tt.err, tt.want)
		}
	}
}

// TestNetworkServiceOfAHostThatCannot is the service of a host whose networks are enabled and could not be opened.
func TestNetworkServiceOfAHostThatCannot(t *testing.T) {
	s := startOver(t, newWires())
	s.create(t, "p1")
	broken := NewNetworkServer(NetworkConfig{Phones: s.sup})
	for name, err := range map[string]error{
		"ListPolicies":    err2(broken.ListPolicies(t.Context(), &phonehostv1.ListPoliciesRequest{})),
		"GetPhoneNetwork": err2(broken.GetPhoneNetwork(t.Context(), &phonehostv1.GetPhoneNetworkRequest{PhoneId: "p1"})),
		"TestConnection":  err2(broken.TestConnection(t.Context(), &phonehostv1.TestConnectionRequest{PhoneId: "p1", Peer: "192.0.2.1", Port: 1})),
	} {
		if got, want := readError(t, err), (refusal{Code: codes.FailedPrecondition, Reason: fault.NetworkDisabled}); got != want {
			t.Errorf("%s: %+v (%v), want %+v", name, got, err, want)
		}
	}
}

// TestNetworkServiceOfAHostWithout refuses every call with one reason.
func TestNetworkServiceOfAHostWithout(t *testing.T) {
	s := start(t)
	s.create(t, "p1")
	ctx := t.Context()
	for name, err := range map[string]error{
		"PutPolicy":       err2(s.put(t, "a", "x")),
		"GetPolicy":       err3(s.policy(t, "a")),
		"ListPolicies":    err2(s.networks.ListPolicies(ctx, &phonehostv1.ListPoliciesRequest{})),
		"DeletePolicy":    err2(s.networks.DeletePolicy(ctx, &phonehostv1.DeletePolicyRequest{Name: "a"})),
		"AssignPolicy":    err2(s.networks.AssignPolicy(ctx, &phonehostv1.AssignPolicyRequest{Policy: "a", PhoneIds: []string{"p1"}})),
		"GetPhoneNetwork": err2(s.networks.GetPhoneNetwork(ctx, &phonehostv1.GetPhoneNetworkRequest{PhoneId: "p1"})),
		"ListFlows":       drained(s.networks.ListFlows(ctx, &phonehostv1.ListFlowsRequest{PhoneId: "p1"})),
		"WatchFlows":      drained(s.networks.WatchFlows(ctx, &phonehostv1.WatchFlowsRequest{})),
		"WatchDenials":    drained(s.networks.WatchDenials(ctx, &phonehostv1.WatchDenialsRequest{})),
		"CutNetwork":      err2(s.networks.CutNetwork(ctx, &phonehostv1.CutNetworkRequest{PhoneIds: []string{"p1"}})),
		"RestoreNetwork":  err2(s.networks.RestoreNetwork(ctx, &phonehostv1.RestoreNetworkRequest{PhoneIds: []string{"p1"}})),
		"SetLimits":       err2(s.networks.SetLimits(ctx, &phonehostv1.SetLimitsRequest{PhoneIds: []string{"p1"}, UpBitsPerSecond: new(uint64(0))})),
		"AddForward":      err2(s.networks.AddForward(ctx, &phonehostv1.AddForwardRequest{PhoneId: "p1", Forward: &phonehostv1.Forward{Listen: "127.0.0.1:1", Port: 1}})),
		"RemoveForward":   err2(s.networks.RemoveForward(ctx, &phonehostv1.RemoveForwardRequest{PhoneId: "p1", Listen: "127.0.0.1:1"})),
		"ListForwards":    err2(s.networks.ListForwards(ctx, &phonehostv1.ListForwardsRequest{})),
		"TestConnection":  err2(s.networks.TestConnection(ctx, &phonehostv1.TestConnectionRequest{PhoneId: "p1", Peer: "192.0.2.1", Port: 1})),
	} {
		if got, want := readError(t, err), (refusal{Code: codes.FailedPrecondition, Reason: fault.NetworkDisabled}); got != want {
			t.Errorf("%s: %+v (%v), want %+v", name, got, err, want)
		}
	}
	p, err := s.phones.GetPhone(ctx, &phonehostv1.GetPhoneRequest{PhoneId: "p1"})
	if err != nil || p.GetPhone().GetNetwork() != nil {
		t.Errorf("a phone without a network has %v, %v", p.GetPhone().GetNetwork(), err)
	}
}

// putRaw sends messages to PutPolicy and returns its error.
func (s *server) putRaw(t *testing.T, messages ...*phonehostv1.PutPolicyRequest) error {
	t.Helper()
	call, err := s.networks.PutPolicy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if call.Send(m) != nil {
			break
		}
	}
	_, err = call.CloseAndRecv()
	return err
}

func err2[T any](_ T, err error) error { return err }

func err3[T, U any](_ T, _ U, err error) error { return err }

// drained reads a stream to its error.
func drained[T any, S interface{ Recv() (*T, error) }](stream S, err error) error {
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}
