package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/network"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// NetworkConfig is what NetworkPolicyService works with.
type NetworkConfig struct {
	// Phones is required.
	Phones *phone.Supervisor
	// Network is nil where the host's phones have no network, because they are disabled or because the host cannot have any; calls are
	// refused then, but where networks are enabled those that only change what phones should have.
	Network *network.Manager
}

// NewNetworkServer returns the NetworkPolicyService.
func NewNetworkServer(cfg NetworkConfig) phonehostv1.NetworkPolicyServiceServer {
	return &networkServer{cfg: cfg}
}

type networkServer struct {
	phonehostv1.UnimplementedNetworkPolicyServiceServer
	cfg NetworkConfig
}

// enabled refuses calls on a host whose phones have no network.
func (s *networkServer) enabled() error {
	if s.cfg.Network != nil {
		return nil
	}
	if err := s.cfg.Phones.CheckNetworks(); err != nil {
		return err
	}
	return fault.New(errdefs.ErrFailedPrecondition, fault.NetworkDisabled, "phones of this host cannot have networks: the warnings of HostService.GetHost say why")
}

// known refuses calls on a host whose phones have no network, and phones that there are not.
func (s *networkServer) known(ids ...string) error {
	if err := s.enabled(); err != nil {
		return err
	}
	if n := len(ids); n > maxListed {
		return tooManyIDs(n)
	}
	for _, id := range ids {
		if _, err := s.cfg.Phones.Get(id); err != nil {
			return err
		}
	}
	return nil
}

type putStream = grpc.ClientStreamingServer[phonehostv1.PutPolicyRequest, phonehostv1.PutPolicyResponse]

func (s *networkServer) PutPolicy(call putStream) error {
	p, err := s.putPolicy(call)
	if err != nil {
		return statusError(err)
	}
	return call.SendAndClose(&phonehostv1.PutPolicyResponse{Policy: s.policyToProto(p, s.users())})
}

func (s *networkServer) putPolicy(call putStream) (network.Policy, error) {
	if err := s.enabled(); err != nil {
		return network.Policy{}, err
	}
	first, err := call.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return network.Policy{}, err
	}
	start := first.GetStart()
	if start == nil {
		return network.Policy{}, fault.Field("start", "must be what the first message carries")
	}
	if err := phone.CheckPolicyName("start.name", start.GetName()); err != nil {
		return network.Policy{}, err
	}
	var text bytes.Buffer
	for {
		m, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return s.cfg.Network.Put(call.Context(), start.GetName(), text.String(), caller(call.Context()))
		}
		if err != nil {
			return network.Policy{}, err
		}
		if m.GetStart() != nil {
			return network.Policy{}, fault.Field("start", "is for the first message only")
		}
		if text.Len()+len(m.GetChunk()) > network.MaxText {
			return network.Policy{}, fault.Field("chunk", "a policy of more than %d bytes is too long", network.MaxText)
		}
		text.Write(m.GetChunk())
	}
}

func (s *networkServer) GetPolicy(q *phonehostv1.GetPolicyRequest, call grpc.ServerStreamingServer[phonehostv1.GetPolicyResponse]) error {
	if err := s.enabled(); err != nil {
		return statusError(err)
	}
	p, text, err := s.cfg.Network.Get(q.GetName())
	if err != nil {
		return statusError(err)
	}
	err = call.Send(&phonehostv1.GetPolicyResponse{Message: &phonehostv1.GetPolicyResponse_Policy{Policy: s.policyToProto(p, s.users())}})
	for chunk := range slices.Chunk([]byte(text), maxChunk) {
		if err != nil {
			break
		}
		err = call.Send(&phonehostv1.GetPolicyResponse{Message: &phonehostv1.GetPolicyResponse_Chunk{Chunk: chunk}})
	}
	return err
}

func (s *networkServer) ListPolicies(context.Context, *phonehostv1.ListPoliciesRequest) (*phonehostv1.ListPoliciesResponse, error) {
	if err := s.enabled(); err != nil {
		return nil, statusError(err)
	}
	answer, users := &phonehostv1.ListPoliciesResponse{}, s.users()
	for _, p := range s.cfg.Network.List() {
		answer.Policies = append(answer.Policies, s.policyToProto(p, users))
	}
	return answer, nil
}

// users counts the phones of each policy.
func (s *networkServer) users() map[string]uint32 {
	users := map[string]uint32{}
	for _, snap := range s.cfg.Phones.List() {
		users[snap.Record.Spec.Network.Policy]++
	}
	return users
}

func (s *networkServer) policyToProto(p network.Policy, users map[string]uint32) *phonehostv1.NetworkPolicy {
	return &phonehostv1.NetworkPolicy{
		Name: p.Name, Default: p.Default, Rules: uint32(p.Rules), Phones: users[p.Name], UpdateTime: timestamp(p.UpdateTime), UpdatedBy: p.UpdatedBy,
		Sha256: p.SHA256[:], Problem: p.Problem,
	}
}

func (s *networkServer) DeletePolicy(ctx context.Context, q *phonehostv1.DeletePolicyRequest) (*phonehostv1.DeletePolicyResponse, error) {
	if err := s.enabled(); err != nil {
		return nil, statusError(err)
	}
	if err := s.cfg.Network.Delete(ctx, q.GetName(), caller(ctx)); err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.DeletePolicyResponse{}, nil
}

// change changes phones' networks and returns a result for each.
func (s *networkServer) change(ctx context.Context, ids []string, c phone.NetworkChange) ([]*phonehostv1.PhoneResult, error) {
	refused, err := s.cfg.Phones.ChangeNetworks(ctx, ids, c, caller(ctx))
	if err != nil {
		return nil, statusError(err)
	}
	if err := ctx.Err(); err != nil {
		return nil, statusError(fmt.Errorf("change networks: %w", err))
	}
	return phoneResults(ids, refused), nil
}

func (s *networkServer) AssignPolicy(ctx context.Context, q *phonehostv1.AssignPolicyRequest) (*phonehostv1.AssignPolicyResponse, error) {
	results, err := s.change(ctx, q.GetPhoneIds(), phone.NetworkChange{Policy: new(q.GetPolicy())})
	return &phonehostv1.AssignPolicyResponse{Results: results}, err
}

func (s *networkServer) CutNetwork(ctx context.Context, q *phonehostv1.CutNetworkRequest) (*phonehostv1.CutNetworkResponse, error) {
	results, err := s.change(ctx, q.GetPhoneIds(), phone.NetworkChange{Cut: new(true)})
	return &phonehostv1.CutNetworkResponse{Results: results}, err
}

func (s *networkServer) RestoreNetwork(ctx context.Context, q *phonehostv1.RestoreNetworkRequest) (*phonehostv1.RestoreNetworkResponse, error) {
	results, err := s.change(ctx, q.GetPhoneIds(), phone.NetworkChange{Cut: new(false)})
	return &phonehostv1.RestoreNetworkResponse{Results: results}, err
}

func (s *networkServer) SetLimits(ctx context.Context, q *phonehostv1.SetLimitsRequest) (*phonehostv1.SetLimitsResponse, error) {
	if q.UpBitsPerSecond == nil && q.DownBitsPerSecond == nil {
		return nil, statusError(fault.Field("up_bits_per_second", "and down_bits_per_second are both missing: at least one must be given"))
	}
	results, err := s.change(ctx, q.GetPhoneIds(), phone.NetworkChange{UpBits: q.UpBitsPerSecond, DownBits: q.DownBitsPerSecond})
	return &phonehostv1.SetLimitsResponse{Results: results}, err
}

func (s *networkServer) AddForward(ctx context.Context, q *phonehostv1.AddForwardRequest) (*phonehostv1.AddForwardResponse, error) {
	f, err := forwardFromProto("forward", q.GetForward())
	if err == nil {
		f, err = s.cfg.Phones.AddForward(ctx, q.GetPhoneId(), f, caller(ctx))
	}
	if err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.AddForwardResponse{Forward: forwardToProto(f)}, nil
}

func (s *networkServer) RemoveForward(ctx context.Context, q *phonehostv1.RemoveForwardRequest) (*phonehostv1.RemoveForwardResponse, error) {
	listen, err := netip.ParseAddrPort(q.GetListen())
	if err != nil {
		return nil, statusError(fault.Field("listen", "%q must be ADDRESS:PORT", fault.Clip(q.GetListen())))
	}
	if err := s.cfg.Phones.RemoveForward(ctx, q.GetPhoneId(), listen, policy.Protocol(q.GetProtocol()), caller(ctx)); err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.RemoveForwardResponse{}, nil
}

func (s *networkServer) ListForwards(_ context.Context, q *phonehostv1.ListForwardsRequest) (*phonehostv1.ListForwardsResponse, error) {
	if err := s.known(q.GetPhoneIds()...); err != nil {
		return nil, statusError(err)
	}
	answer := &phonehostv1.ListForwardsResponse{}
	for _, snap := range s.cfg.Phones.List() {
		id := snap.Record.Spec.ID
		if len(q.GetPhoneIds()) > 0 && !slices.Contains(q.GetPhoneIds(), id) {
			continue
		}
		forwards := slices.Clone(snap.Record.Spec.Network.Forwards)
		slices.SortFunc(forwards, func(a, b phone.Forward) int { return int(a.Listen.Port()) - int(b.Listen.Port()) })
		for _, f := range forwards {
			answer.Forwards = append(answer.Forwards, &phonehostv1.PhoneForward{PhoneId: id, Forward: forwardToProto(f)})
		}
	}
	return answer, nil
}

func (s *networkServer) GetPhoneNetwork(ctx context.Context, q *phonehostv1.GetPhoneNetworkRequest) (*phonehostv1.GetPhoneNetworkResponse, error) {
	if err := s.known(q.GetPhoneId()); err != nil {
		return nil, statusError(err)
	}
	snap, err := s.cfg.Phones.Get(q.GetPhoneId())
	if err != nil {
		return nil, statusError(err)
	}
	status, err := s.cfg.Network.Status(ctx, q.GetPhoneId())
	if err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.GetPhoneNetworkResponse{Network: phoneNetworkToProto(snap, s.cfg.Phones.Pools(), status)}, nil
}

func (s *networkServer) ListFlows(q *phonehostv1.ListFlowsRequest, call grpc.ServerStreamingServer[phonehostv1.ListFlowsResponse]) error {
	if err := s.known(q.GetPhoneId()); err != nil {
		return statusError(err)
	}
	flows, err := s.cfg.Network.Flows(call.Context(), q.GetPhoneId())
	if err != nil {
		return statusError(err)
	}
	for some := range slices.Chunk(flows, maxFlows) {
		if err := call.Send(&phonehostv1.ListFlowsResponse{Flows: flowsToProto(some)}); err != nil {
			return err
		}
	}
	return nil
}

// maxFlows is how many flows one message carries.
const maxFlows = 256

func (s *networkServer) WatchFlows(q *phonehostv1.WatchFlowsRequest, call grpc.ServerStreamingServer[phonehostv1.WatchFlowsResponse]) error {
	if err := s.watchable(q.GetPhoneIds()); err != nil {
		return statusError(err)
	}
	w := s.cfg.Network.WatchFlows(q.GetPhoneIds())
	defer w.Close()
	return follow(call, w, func(flows []netpolicy.Flow, missed uint64) error {
		return call.Send(&phonehostv1.WatchFlowsResponse{Flows: flowsToProto(flows), Missed: missed})
	})
}

func (s *networkServer) WatchDenials(q *phonehostv1.WatchDenialsRequest, call grpc.ServerStreamingServer[phonehostv1.WatchDenialsResponse]) error {
	if err := s.watchable(q.GetPhoneIds()); err != nil {
		return statusError(err)
	}
	w := s.cfg.Network.WatchDenials(q.GetPhoneIds())
	defer w.Close()
	return follow(call, w, func(denials []netpolicy.Denial, missed uint64) error {
		m := &phonehostv1.WatchDenialsResponse{Missed: missed}
		for _, d := range denials {
			m.Denials = append(m.Denials, denialToProto(d))
		}
		return call.Send(m)
	})
}

// watchable refuses to watch more phones than one call may name.
func (s *networkServer) watchable(ids []string) error {
	if err := s.enabled(); err != nil {
		return err
	}
	if n := len(ids); n > maxListed {
		return tooManyIDs(n)
	}
	return nil
}

// watcher collects items for one reader (*feed.Watcher).
type watcher[T any] interface {
	Next(ctx context.Context) (items []T, missed uint64, err error)
}

// follow sends what a watcher gets until the call ends. Its headers go at once: who has them misses nothing of what follows.
func follow[T any](call grpc.ServerStream, w watcher[T], send func([]T, uint64) error) error {
	if err := call.SendHeader(nil); err != nil {
		return err
	}
	for {
		items, missed, err := w.Next(call.Context())
		if err != nil {
			return statusError(err)
		}
		if err := send(items, missed); err != nil {
			return err
		}
	}
}

func (s *networkServer) TestConnection(ctx context.Context, q *phonehostv1.TestConnectionRequest) (*phonehostv1.TestConnectionResponse, error) {
	if err := s.known(q.GetPhoneId()); err != nil {
		return nil, statusError(err)
	}
	snap, err := s.cfg.Phones.Get(q.GetPhoneId())
	if err != nil {
		return nil, statusError(err)
	}
	probe, err := probeFromProto(q)
	if err != nil {
		return nil, statusError(err)
	}
	d, err := s.cfg.Network.Test(ctx, q.GetPhoneId(), probe)
	if err != nil {
		return nil, statusError(testError(q.GetPhoneId(), err))
	}
	return &phonehostv1.TestConnectionResponse{
		Allowed: d.Allowed, Peer: addressText(d.Peer), Reason: reasonToProto(d.Reason), ProtectedClass: classToProto(d.Class), Rule: int32(d.Rule),
		Text: d.Text, Policy: snap.Record.Spec.Network.Policy,
	}, nil
}
