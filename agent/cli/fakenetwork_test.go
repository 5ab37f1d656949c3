package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// fakeNetworks is the agent's NetworkPolicyService. A policy with the word "wrong" is none. Networks of phones whose id begins with "stuck"
// cannot be changed. Watches send something once, and then wait for their end; that of
// cp-2's flows has missed some.
type fakeNetworks struct {
	phonehostv1.UnimplementedNetworkPolicyServiceServer
	agent *fakeAgent
}

const allowInternet = "allow-internet"

// wire gives a new phone its network; f.mu is held.
func (f *fakeAgent) wire(p *phonehostv1.Phone) {
	if p.GetSpec().GetNetwork() == nil {
		p.Spec.Network = new(phonehostv1.NetworkSpec)
	}
	spec := p.GetSpec().GetNetwork()
	if spec.GetPolicy() == "" {
		spec.Policy = allowInternet
	}
	p.Network = &phonehostv1.NetworkState{Ipv4: spec.GetIpv4(), Ipv6: spec.GetIpv6(), InForce: true}
	if spec.GetIpv4() == "" {
		p.Network.Ipv4 = fmt.Sprintf("10.213.0.%d", len(f.phones)+2)
	}
}

// describe returns a policy; f.mu is held.
func (f *fakeAgent) describe(name string) *phonehostv1.NetworkPolicy {
	text := f.policies[name]
	p := &phonehostv1.NetworkPolicy{Name: name, Default: allowInternet, Rules: uint32(strings.Count(text, "allow ") + strings.Count(text, "deny "))}
	if strings.HasPrefix(text, "default deny-all") {
		p.Default = "deny-all"
	}
	if name != allowInternet {
		sum := sha256.Sum256([]byte(text))
		p.UpdateTime, p.UpdatedBy, p.Sha256 = timestamppb.New(base), "uid/0", sum[:]
	}
	for _, phone := range f.phones {
		if phone.GetSpec().GetNetwork().GetPolicy() == name {
			p.Phones++
		}
	}
	return p
}

func noPolicy(name string) error {
	return refuse(codes.NotFound, fault.NoSuchPolicy, nil, "no network policy %q on this host", name)
}

func (f fakeNetworks) PutPolicy(stream grpc.ClientStreamingServer[phonehostv1.PutPolicyRequest, phonehostv1.PutPolicyResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	name := first.GetStart().GetName()
	if name == allowInternet {
		return refuse(codes.InvalidArgument, fault.InvalidField, nil, "start.name: %q is built in and cannot be changed", name)
	}
	var text strings.Builder
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		text.Write(m.GetChunk())
	}
	if strings.Contains(text.String(), "wrong") {
		return refuse(codes.InvalidArgument, "BAD_POLICY", nil, `line 2: "wrong" is no action: allow or deny`)
	}
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	f.agent.policies[name] = text.String()
	return stream.SendAndClose(&phonehostv1.PutPolicyResponse{Policy: f.agent.describe(name)})
}

func (f fakeNetworks) GetPolicy(in *phonehostv1.GetPolicyRequest, stream grpc.ServerStreamingServer[phonehostv1.GetPolicyResponse]) error {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	text, found := f.agent.policies[in.GetName()]
	if !found {
		return noPolicy(in.GetName())
	}
	messages := []*phonehostv1.GetPolicyResponse{{Message: &phonehostv1.GetPolicyResponse_Policy{Policy: f.agent.describe(in.GetName())}}}
	for chunk := range slices.Chunk([]byte(text), 10) {
		messages = append(messages, &phonehostv1.GetPolicyResponse{Message: &phonehostv1.GetPolicyResponse_Chunk{Chunk: chunk}})
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (f fakeNetworks) ListPolicies(context.Context, *phonehostv1.ListPoliciesRequest) (*phonehostv1.ListPoliciesResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	answer := &phonehostv1.ListPoliciesResponse{Policies: []*phonehostv1.NetworkPolicy{f.agent.describe(allowInternet)}}
	for _, name := range slices.Sorted(maps.Keys(f.agent.policies)) {
		answer.Policies = append(answer.Policies, f.agent.describe(name))
	}
	return answer, nil
}

func (f fakeNetworks) DeletePolicy(_ context.Context, in *phonehostv1.DeletePolicyRequest) (*phonehostv1.DeletePolicyResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	if _, found := f.agent.policies[in.GetName()]; !found {
		return nil, noPolicy(in.GetName())
	}
	if f.agent.describe(in.GetName()).GetPhones() > 0 {
		return nil, refuse(codes.FailedPrecondition, "POLICY_IN_USE", nil, "policy %s is the policy of phones: assign them another one first", in.GetName())
	}
	delete(f.agent.policies, in.GetName())
	return new(phonehostv1.DeletePolicyResponse), nil
}

// each changes phones and returns a result for each.
func (f fakeNetworks) each(ids []string, change func(p *phonehostv1.Phone)) []*phonehostv1.PhoneResult {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	var results []*phonehostv1.PhoneResult
	for _, id := range ids {
		r := &phonehostv1.PhoneResult{PhoneId: id}
		switch p := f.agent.phones[id]; {
		case p == nil:
			r.Failure = &phonehostv1.Failure{Code: int32(codes.NotFound), Reason: fault.NoSuchPhone, Message: "no phone \"" + id + "\" on this host"}
		case strings.HasPrefix(id, "stuck"):
			r.Failure = &phonehostv1.Failure{Code: int32(codes.Unavailable), Reason: fault.NetworkFailed, Message: "the network of " + id + ": stored, and tried again since it could not be changed yet: no memory"}
		default:
			change(p)
			f.agent.put(p)
		}
		results = append(results, r)
	}
	return results
}

func (f fakeNetworks) AssignPolicy(_ context.Context, in *phonehostv1.AssignPolicyRequest) (*phonehostv1.AssignPolicyResponse, error) {
	f.agent.mu.Lock()
	_, found := f.agent.policies[in.GetPolicy()]
	f.agent.mu.Unlock()
	if !found && in.GetPolicy() != allowInternet {
		return nil, noPolicy(in.GetPolicy())
	}
	return &phonehostv1.AssignPolicyResponse{Results: f.each(in.GetPhoneIds(), func(p *phonehostv1.Phone) { p.Spec.Network.Policy = in.GetPolicy() })}, nil
}

func (f fakeNetworks) CutNetwork(_ context.Context, in *phonehostv1.CutNetworkRequest) (*phonehostv1.CutNetworkResponse, error) {
	return &phonehostv1.CutNetworkResponse{Results: f.each(in.GetPhoneIds(), func(p *phonehostv1.Phone) { p.Network.Cut = true })}, nil
}

func (f fakeNetworks) RestoreNetwork(_ context.Context, in *phonehostv1.RestoreNetworkRequest) (*phonehostv1.RestoreNetworkResponse, error) {
	return &phonehostv1.RestoreNetworkResponse{Results: f.each(in.GetPhoneIds(), func(p *phonehostv1.Phone) { p.Network.Cut = false })}, nil
}

func (f fakeNetworks) SetLimits(_ context.Context, in *phonehostv1.SetLimitsRequest) (*phonehostv1.SetLimitsResponse, error) {
	return &phonehostv1.SetLimitsResponse{Results: f.each(in.GetPhoneIds(), func(p *phonehostv1.Phone) {
		if in.UpBitsPerSecond != nil {
			p.Spec.Network.UpBitsPerSecond = in.GetUpBitsPerSecond()
		}
		if in.DownBitsPerSecond != nil {
			p.Spec.Network.DownBitsPerSecond = in.GetDownBitsPerSecond()
		}
	})}, nil
}

func (f fakeNetworks) GetPhoneNetwork(_ context.Context, in *phonehostv1.GetPhoneNetworkRequest) (*phonehostv1.GetPhoneNetworkResponse, error) {
	p := f.agent.phone(in.GetPhoneId())
	if p == nil {
		return nil, noPhone(in.GetPhoneId())
	}
	n := &phonehostv1.PhoneNetwork{PhoneId: in.GetPhoneId(), Spec: p.GetSpec().GetNetwork(), State: p.GetNetwork(), Ipv4Gateway: "10.213.0.1"}
	if running(p) {
		n.Up, n.Interface, n.Mtu, n.Flows, n.MaxFlows = true, "ph-0123456789", 1500, 2, 4096
		n.Counters = &phonehostv1.NetworkCounters{SentPackets: 1, SentBytes: 60, ReceivedPackets: 2000, ReceivedBytes: 3 << 20, Dropped: []*phonehostv1.DroppedPackets{
			{Reason: phonehostv1.DenialReason_DENIAL_REASON_SPOOFED_IP, Packets: 7},
		}}
	}
	return &phonehostv1.GetPhoneNetworkResponse{Network: n}, nil
}

// fakeFlows are the flows of every phone.
func fakeFlows(id string) []*phonehostv1.Flow {
	return []*phonehostv1.Flow{
		{
			PhoneId: id, Direction: phonehostv1.FlowDirection_FLOW_DIRECTION_INGRESS, Protocol: phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_TCP, Peer: "192.0.2.7",
			PeerPort: 40000, Port: 5555, State: phonehostv1.FlowState_FLOW_STATE_NEW, Rule: -3, StartTime: timestamppb.New(base), LastTime: timestamppb.New(base),
		},
		{
			PhoneId: id, Direction: phonehostv1.FlowDirection_FLOW_DIRECTION_EGRESS, Protocol: phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_UDP, Peer: "2001:db8::1",
			PeerPort: 443, Port: 50000, State: phonehostv1.FlowState_FLOW_STATE_ESTABLISHED, Rule: 0, StartTime: timestamppb.New(base),
			LastTime: timestamppb.New(base.Add(2 * time.Minute)), SentPackets: 3, SentBytes: 1800, ReceivedPackets: 4, ReceivedBytes: 4 << 20,
		},
	}
}

func (f fakeNetworks) ListFlows(in *phonehostv1.ListFlowsRequest, stream grpc.ServerStreamingServer[phonehostv1.ListFlowsResponse]) error {
	if f.agent.phone(in.GetPhoneId()) == nil {
		return noPhone(in.GetPhoneId())
	}
	for _, flow := range fakeFlows(in.GetPhoneId()) {
		if err := stream.Send(&phonehostv1.ListFlowsResponse{Flows: []*phonehostv1.Flow{flow}}); err != nil {
			return err
		}
	}
	return nil
}

func (f fakeNetworks) WatchFlows(in *phonehostv1.WatchFlowsRequest, stream grpc.ServerStreamingServer[phonehostv1.WatchFlowsResponse]) error {
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	closed := proto.CloneOf(fakeFlows(in.GetPhoneIds()[0])[0])
	closed.State = phonehostv1.FlowState_FLOW_STATE_CLOSED
	answer := &phonehostv1.WatchFlowsResponse{Flows: []*phonehostv1.Flow{closed}}
	if in.GetPhoneIds()[0] == "cp-2" {
		answer.Missed = 3
	}
	if err := stream.Send(answer); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (f fakeNetworks) WatchDenials(in *phonehostv1.WatchDenialsRequest, stream grpc.ServerStreamingServer[phonehostv1.WatchDenialsResponse]) error {
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	denial := &phonehostv1.Denial{
		PhoneId: "cp-1", Direction: phonehostv1.FlowDirection_FLOW_DIRECTION_EGRESS, Protocol: 6, Peer: "169.254.169.254", Port: 80,
		Reason: phonehostv1.DenialReason_DENIAL_REASON_PROTECTED, ProtectedClass: phonehostv1.ProtectedClass_PROTECTED_CLASS_METADATA, Rule: -1,
		Packets: 4, Bytes: 240, FirstTime: timestamppb.New(base), LastTime: timestamppb.New(base),
	}
	if err := stream.Send(&phonehostv1.WatchDenialsResponse{Denials: []*phonehostv1.Denial{denial}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func (f fakeNetworks) AddForward(_ context.Context, in *phonehostv1.AddForwardRequest) (*phonehostv1.AddForwardResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	p := f.agent.phones[in.GetPhoneId()]
	if p == nil {
		return nil, noPhone(in.GetPhoneId())
	}
	for id, other := range f.agent.phones {
		for _, have := range other.GetSpec().GetNetwork().GetForwards() {
			if have.GetListen() == in.GetForward().GetListen() && have.GetProtocol() == in.GetForward().GetProtocol() {
				return nil, refuse(codes.AlreadyExists, fault.ForwardTaken, nil, "%s is taken: a forward of phone %s listens there", have.GetListen(), id)
			}
		}
	}
	p.Spec.Network.Forwards = append(p.Spec.Network.Forwards, in.GetForward())
	return &phonehostv1.AddForwardResponse{Forward: in.GetForward()}, nil
}

func (f fakeNetworks) RemoveForward(_ context.Context, in *phonehostv1.RemoveForwardRequest) (*phonehostv1.RemoveForwardResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	p := f.agent.phones[in.GetPhoneId()]
	if p == nil {
		return nil, noPhone(in.GetPhoneId())
	}
	kept := slices.DeleteFunc(slices.Clone(p.Spec.Network.Forwards), func(have *phonehostv1.Forward) bool {
		return have.GetListen() == in.GetListen() && have.GetProtocol() == in.GetProtocol()
	})
	if len(kept) == len(p.Spec.Network.Forwards) {
		return nil, refuse(codes.NotFound, fault.NoSuchForward, nil, "phone %s has no forward that listens at %s", in.GetPhoneId(), in.GetListen())
	}
	p.Spec.Network.Forwards = kept
	return new(phonehostv1.RemoveForwardResponse), nil
}

func (f fakeNetworks) ListForwards(_ context.Context, in *phonehostv1.ListForwardsRequest) (*phonehostv1.ListForwardsResponse, error) {
	f.agent.mu.Lock()
	defer f.agent.mu.Unlock()
	phones, err := f.agent.list(in.GetPhoneIds())
	if err != nil {
		return nil, err
	}
	answer := new(phonehostv1.ListForwardsResponse)
	for _, p := range phones {
		for _, forward := range p.GetSpec().GetNetwork().GetForwards() {
			answer.Forwards = append(answer.Forwards, &phonehostv1.PhoneForward{PhoneId: p.GetSpec().GetId(), Forward: forward})
		}
	}
	return answer, nil
}

// TestConnection lets everything out but to the metadata address, and nothing in.
func (f fakeNetworks) TestConnection(_ context.Context, in *phonehostv1.TestConnectionRequest) (*phonehostv1.TestConnectionResponse, error) {
	p := f.agent.phone(in.GetPhoneId())
	if p == nil {
		return nil, noPhone(in.GetPhoneId())
	}
	answer := &phonehostv1.TestConnectionResponse{
		Allowed: true, Peer: in.GetPeer(), Rule: -1, Policy: p.GetSpec().GetNetwork().GetPolicy(),
		Text: fmt.Sprintf("%s to port %d: no rule decides it, and the default lets it out", in.GetProtocol(), in.GetPort()),
	}
	switch {
	case in.GetPeer() == "169.254.169.254":
		answer.Allowed, answer.Reason = false, phonehostv1.DenialReason_DENIAL_REASON_PROTECTED
		answer.ProtectedClass, answer.Text = phonehostv1.ProtectedClass_PROTECTED_CLASS_METADATA, "only a rule that names it opens it"
	case in.GetDirection() == phonehostv1.FlowDirection_FLOW_DIRECTION_INGRESS:
		answer.Allowed, answer.Reason, answer.Text = false, phonehostv1.DenialReason_DENIAL_REASON_DEFAULT, fmt.Sprintf("port %d", in.GetPort())
	}
	return answer, nil
}
