package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/network"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// wires is the engine of networks of a host in memory, as far as NetworkPolicyService needs one.
type wires struct {
	denials chan []netpolicy.Denial
	flows   chan netpolicy.Flow

	mu       sync.Mutex
	policies map[string]policy.Policy
	status   map[string]netpolicy.Status
	live     map[string][]netpolicy.Flow
	probes   []netpolicy.Probe
}

func newWires() *wires {
	return &wires{
		denials: make(chan []netpolicy.Denial), flows: make(chan netpolicy.Flow), policies: map[string]policy.Policy{},
		status: map[string]netpolicy.Status{}, live: map[string][]netpolicy.Flow{},
	}
}

// open has a host's phones get their networks from w; nil means that they have none.
func (w *wires) open(t testing.TB, cfg *phone.Config) *network.Manager {
	t.Helper()
	if w == nil {
		return nil
	}
	m, err := network.Open(t.Context(), network.Config{
		DB: cfg.DB, Journal: cfg.Journal, Engine: w, Users: phone.PolicyUsers, Logger: cfg.Logger, Parse: rules,
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg.HasPolicy = network.Has
	cfg.Pools = phone.Pools{IPv4: netip.MustParsePrefix("10.213.0.0/16"), IPv6: netip.MustParsePrefix("fd70::/64")}
	return m
}

// rules reads texts of the form of these tests: every line is a rule, but "wrong".
func rules(text []byte) (policy.Policy, error) {
	if bytes.Contains(text, []byte("wrong")) {
		return policy.Policy{}, fmt.Errorf("line 1: no rule: %w", errdefs.ErrInvalidArgument)
	}
	return policy.Policy{Rules: make([]policy.Rule, bytes.Count(text, []byte("\n")))}, nil
}

func (w *wires) SetPolicy(_ context.Context, name string, p policy.Policy) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policies[name] = p
	return nil
}

func (w *wires) DropPolicy(_ context.Context, name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.policies, name)
	return nil
}

func (w *wires) Status(_ context.Context, id string) (netpolicy.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, found := w.status[id]
	if !found {
		return s, fmt.Errorf("phone %s has no network: %w", id, errdefs.ErrNotFound)
	}
	return s, nil
}

func (w *wires) Flows(_ context.Context, id string) ([]netpolicy.Flow, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live[id], nil
}

func (w *wires) Test(_ context.Context, id string, p netpolicy.Probe) (netpolicy.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, found := w.status[id]; !found {
		return netpolicy.Decision{}, fmt.Errorf("phone %s has no network: %w", id, errdefs.ErrNotFound)
	}
	w.probes = append(w.probes, p)
	return netpolicy.Decision{Reason: "PROTECTED", Class: "HOST", Peer: netip.MustParseAddr("10.0.0.1"), Rule: -1, Text: "it is the host's"}, nil
}

func (w *wires) Denials(ctx context.Context) <-chan []netpolicy.Denial { return until(ctx, w.denials) }

func (w *wires) WatchFlows(ctx context.Context) <-chan netpolicy.Flow { return until(ctx, w.flows) }

// until hands on what comes until the context ends, and then closes its channel.
func until[T any](ctx context.Context, in <-chan T) <-chan T {
	out := make(chan T)
	go func() {
		defer close(out)
		for {
			select {
			case v := <-in:
				select {
				case out <- v:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// put puts a policy in chunks.
func (s *server) put(t *testing.T, name string, chunks ...string) (*phonehostv1.NetworkPolicy, error) {
	t.Helper()
	call, err := s.networks.PutPolicy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	messages := []*phonehostv1.PutPolicyRequest{{Message: &phonehostv1.PutPolicyRequest_Start{Start: &phonehostv1.PutPolicyStart{Name: name}}}}
	for _, chunk := range chunks {
		messages = append(messages, &phonehostv1.PutPolicyRequest{Message: &phonehostv1.PutPolicyRequest_Chunk{Chunk: []byte(chunk)}})
	}
	for _, m := range messages {
		if call.Send(m) != nil {
			break // the answer says why
		}
	}
	answer, err := call.CloseAndRecv()
	return answer.GetPolicy(), err
}

// policy returns a policy and its text.
func (s *server) policy(t *testing.T, name string) (*phonehostv1.NetworkPolicy, string, error) {
	t.Helper()
	call, err := s.networks.GetPolicy(t.Context(), &phonehostv1.GetPolicyRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	first, err := call.Recv()
	if err != nil {
		return nil, "", err
	}
	var text strings.Builder
	for {
		m, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return first.GetPolicy(), text.String(), nil
		}
		if err != nil || len(m.GetChunk()) == 0 || len(m.GetChunk()) > maxChunk {
			t.Fatalf("a chunk of %d bytes, %v", len(m.GetChunk()), err)
		}
		text.Write(m.GetChunk())
	}
}

func TestNetworkPolicies(t *testing.T) {
	s := startOver(t, newWires())
	long := strings.Repeat("allow egress any 192.0.2.0/24\n", 10_000)
	var chunks []string
	for rest := long; rest != ""; {
		n := min(len(rest), maxChunk)
		chunks, rest = append(chunks, rest[:n]), rest[n:]
	}
	p, err := s.put(t, "long", chunks...)
	if err != nil || p.GetName() != "long" || p.GetRules() != 10_000 || p.GetUpdatedBy() != "uid/0" || len(p.GetSha256()) != 32 {
		t.Fatalf("%v %v", p, err)
	}
	if p, text, err := s.policy(t, "long"); err != nil || text != long || p.GetRules() != 10_000 {
		t.Errorf("%d of %d bytes came back: %v", len(text), len(long), err)
	}
	if _, text, err := s.policy(t, netpolicy.DefaultPolicy); err != nil || text != "default allow-internet\n" {
		t.Errorf("%q %v", text, err)
	}
	s.create(t, "p1")
	assigned, err := s.networks.AssignPolicy(t.Context(), &phonehostv1.AssignPolicyRequest{Policy: "long", PhoneIds: []string{"p1", "p9"}})
	if err != nil || assigned.GetResults()[0].GetFailure() != nil || assigned.GetResults()[1].GetFailure().GetReason() != fault.NoSuchPhone {
		t.Errorf("%v %v", assigned, err)
	}
	list, err := s.networks.ListPolicies(t.Context(), &phonehostv1.ListPoliciesRequest{})
	if err != nil || len(list.GetPolicies()) != 2 || list.GetPolicies()[1].GetPhones() != 1 || list.GetPolicies()[0].GetName() != netpolicy.DefaultPolicy {
		t.Errorf("%v %v", list, err)
	}
	remove := func() error {
		_, err := s.networks.DeletePolicy(t.Context(), &phonehostv1.DeletePolicyRequest{Name: "long"})
		return err
	}
	if got, want := readError(t, remove()), (refusal{Code: codes.FailedPrecondition, Reason: network.PolicyInUse}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, err := s.networks.AssignPolicy(t.Context(), &phonehostv1.AssignPolicyRequest{Policy: netpolicy.DefaultPolicy, PhoneIds: []string{"p1"}}); err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
}

func TestPhoneNetwork(t *testing.T) {
	w := newWires()
	s := startOver(t, w)
	answer, err := s.phones.CreatePhone(t.Context(), &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{
		Id: "p1", Image: "testphone", MemoryBytes: 256 << 20, Network: &phonehostv1.NetworkSpec{
			Ipv4: "10.213.0.9", UpBitsPerSecond: 1e6, Forwards: []*phonehostv1.Forward{{Listen: "127.0.0.1:6001", Port: 5555}},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if n := answer.GetPhone().GetNetwork(); n.GetIpv4() != "10.213.0.9" || n.GetIpv6() != "fd70::2" || n.GetInForce() {
		t.Errorf("network of a new phone: %v", n)
	}
	get := func() *phonehostv1.PhoneNetwork {
		t.Helper()
		answer, err := s.networks.GetPhoneNetwork(t.Context(), &phonehostv1.GetPhoneNetworkRequest{PhoneId: "p1"})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetNetwork()
	}
	if n := get(); n.GetUp() || n.GetIpv4Gateway() != "10.213.0.1" || n.GetIpv6Gateway() != "fd70::1" || n.GetInterface() != "" {
		t.Errorf("before the first start: %v", n)
	}
	on, err := s.phones.PowerOn(t.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{"p1"}})
	if err != nil {
		t.Fatal(err)
	}
	s.finish(t, on.GetOperation())
	w.mu.Lock()
	w.status["p1"] = netpolicy.Status{
		Up: true, Interface: "ph-0123456789", MTU: 1500, Generation: 7, Flows: 3, MaxFlows: 4096,
		Counters: netpolicy.Counters{Packets: [2]uint64{1, 2}, Bytes: [2]uint64{3, 4}, Dropped: map[string]uint64{"RULE": 5, "SPOOFED_IP": 6}},
	}
	w.mu.Unlock()
	if _, err := s.networks.SetLimits(t.Context(), &phonehostv1.SetLimitsRequest{PhoneIds: []string{"p1"}, DownBitsPerSecond: new(uint64(2e6))}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.networks.CutNetwork(t.Context(), &phonehostv1.CutNetworkRequest{PhoneIds: []string{"p1"}}); err != nil {
		t.Fatal(err)
	}
	n := get()
	if !n.GetUp() || n.GetInterface() != "ph-0123456789" || n.GetMtu() != 1500 || n.GetGeneration() != 7 || n.GetFlows() != 3 || n.GetMaxFlows() != 4096 {
		t.Errorf("network: %v", n)
	}
	if spec := n.GetSpec(); spec.GetUpBitsPerSecond() != 1e6 || spec.GetDownBitsPerSecond() != 2e6 || spec.GetPolicy() != netpolicy.DefaultPolicy || !n.GetState().GetCut() || !n.GetState().GetInForce() {
		t.Errorf("network: %v", n)
	}
	c := n.GetCounters()
	if c.GetSentPackets() != 1 || c.GetReceivedPackets() != 2 || c.GetSentBytes() != 3 || c.GetReceivedBytes() != 4 || len(c.GetDropped()) != 2 ||
		c.GetDropped()[0].GetReason() != phonehostv1.DenialReason_DENIAL_REASON_SPOOFED_IP || c.GetDropped()[1].GetPackets() != 5 {
		t.Errorf("counters: %v", c)
	}
	if _, err := s.networks.RestoreNetwork(t.Context(), &phonehostv1.RestoreNetworkRequest{PhoneIds: []string{"p1"}}); err != nil || get().GetState().GetCut() {
		t.Errorf("restore: %v, %v", get(), err)
	}
	added, err := s.networks.AddForward(t.Context(), &phonehostv1.AddForwardRequest{PhoneId: "p1", Forward: &phonehostv1.Forward{
		Listen: "0.0.0.0:53", Protocol: phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_UDP, Port: 53,
	}})
	if err != nil || added.GetForward().GetListen() != "0.0.0.0:53" {
		t.Errorf("%v %v", added, err)
	}
	list, err := s.networks.ListForwards(t.Context(), &phonehostv1.ListForwardsRequest{PhoneIds: []string{"p1"}})
	if err != nil || len(list.GetForwards()) != 2 || list.GetForwards()[1].GetForward().GetProtocol() != phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_TCP {
		t.Errorf("%v %v", list, err)
	}
	if _, err := s.networks.RemoveForward(t.Context(), &phonehostv1.RemoveForwardRequest{PhoneId: "p1", Listen: "127.0.0.1:6001"}); err != nil {
		t.Error(err)
	}
	if list, err := s.networks.ListForwards(t.Context(), &phonehostv1.ListForwardsRequest{}); err != nil || len(list.GetForwards()) != 1 {
		t.Errorf("%v %v", list, err)
	}
	s.world.Lock()
	defer s.world.Unlock()
	if p := s.world.Nets["p1"]; p.UpBits != 1e6 || p.DownBits != 2e6 || p.Cut || len(p.Forwards) != 1 || p.Forwards[0].Port != 53 {
		t.Errorf("the kernel has %+v", p)
	}
}

func TestFlowsAndDenials(t *testing.T) {
	w := newWires()
	s := startOver(t, w)
	s.create(t, "p1")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	flow := netpolicy.Flow{
		Phone: "p1", Direction: policy.Ingress, Protocol: policy.UDP, Peer: netip.MustParseAddrPort("[2001:db8::1]:443"), Port: 5555, State: "ESTABLISHED",
		Rule: -3, Started: at, Seen: at.Add(time.Second), Packets: [2]uint64{1, 2}, Bytes: [2]uint64{3, 4},
	}
	w.mu.Lock()
	for range 600 {
		w.live["p1"] = append(w.live["p1"], flow)
	}
	w.mu.Unlock()
	list, err := s.networks.ListFlows(t.Context(), &phonehostv1.ListFlowsRequest{PhoneId: "p1"})
	if err != nil {
		t.Fatal(err)
	}
	flows := 0
	for {
		m, err := list.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || len(m.GetFlows()) > maxFlows {
			t.Fatalf("%d flows, %v", len(m.GetFlows()), err)
		}
		flows += len(m.GetFlows())
		checkFlow(t, m.GetFlows()[0])
	}
	if flows != 600 {
		t.Errorf("%d flows of 600", flows)
	}
	watch, err := s.networks.WatchFlows(t.Context(), &phonehostv1.WatchFlowsRequest{PhoneIds: []string{"p1"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil { // from here on nothing is missed
		t.Fatal(err)
	}
	w.flows <- netpolicy.Flow{Phone: "p2"}
	w.flows <- flow
	if m, err := watch.Recv(); err != nil || len(m.GetFlows()) != 1 || m.GetMissed() != 0 {
		t.Errorf("%v %v", m, err)
	} else {
		checkFlow(t, m.GetFlows()[0])
	}
	denials, err := s.networks.WatchDenials(t.Context(), &phonehostv1.WatchDenialsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := denials.Header(); err != nil {
		t.Fatal(err)
	}
	w.denials <- []netpolicy.Denial{{
		Phone: "p1", Protocol: 6, Peer: netip.MustParseAddr("10.0.0.1"), Port: 22, Reason: "PROTECTED", Class: "HOST", Rule: 4, Count: 7, Bytes: 420, First: at, Last: at,
	}}
	m, err := denials.Recv()
	if err != nil || len(m.GetDenials()) != 1 {
		t.Fatalf("%v %v", m, err)
	}
	d := m.GetDenials()[0]
	if d.GetDirection() != phonehostv1.FlowDirection_FLOW_DIRECTION_EGRESS || d.GetReason() != phonehostv1.DenialReason_DENIAL_REASON_PROTECTED ||
		d.GetProtectedClass() != phonehostv1.ProtectedClass_PROTECTED_CLASS_HOST || d.GetPeer() != "10.0.0.1" || d.GetPackets() != 7 || !d.GetFirstTime().AsTime().Equal(at) {
		t.Errorf("%v", d)
	}
	s.api.Drain()
	for name, recv := range map[string]func() error{
		"flows":   func() error { _, err := watch.Recv(); return err },
		"denials": func() error { _, err := denials.Recv(); return err },
	} {
		if got := readError(t, recv()); got.Reason != fault.ShuttingDown {
			t.Errorf("%s at the agent's end: %+v", name, got)
		}
	}
}

func checkFlow(t *testing.T, f *phonehostv1.Flow) {
	t.Helper()
	if f.GetDirection() != phonehostv1.FlowDirection_FLOW_DIRECTION_INGRESS || f.GetProtocol() != phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_UDP ||
		f.GetPeer() != "2001:db8::1" || f.GetPeerPort() != 443 || f.GetPort() != 5555 || f.GetState() != phonehostv1.FlowState_FLOW_STATE_ESTABLISHED ||
		f.GetRule() != -3 || f.GetSentPackets() != 1 || f.GetReceivedBytes() != 4 || f.GetLastTime().AsTime().Sub(f.GetStartTime().AsTime()) != time.Second {
		t.Errorf("flow: %v", f)
	}
}

func TestConnectionIsTested(t *testing.T) {
	w := newWires()
	s := startOver(t, w)
	s.create(t, "p1")
	test := func(q *phonehostv1.TestConnectionRequest) (*phonehostv1.TestConnectionResponse, error) {
		q.PhoneId = "p1"
		return s.networks.TestConnection(t.Context(), q)
	}
	_, err := test(&phonehostv1.TestConnectionRequest{Peer: "10.0.0.1", Port: 22})
	if got, want := readError(t, err), (refusal{Code: codes.FailedPrecondition, Reason: fault.NotRunning}); got != want {
		t.Errorf("a phone without a network: %+v, want %+v", got, want)
	}
	w.mu.Lock()
	w.status["p1"] = netpolicy.Status{}
	w.mu.Unlock()
	ingress, udp, icmp := phonehostv1.FlowDirection_FLOW_DIRECTION_INGRESS, phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_UDP, phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_ICMP
	for _, tt := range []struct {
		q    *phonehostv1.TestConnectionRequest
		want netpolicy.Probe
	}{
		{&phonehostv1.TestConnectionRequest{Peer: "10.0.0.1", Port: 22}, netpolicy.Probe{Protocol: policy.TCP, Peer: netip.MustParseAddr("10.0.0.1"), Port: 22}},
		{&phonehostv1.TestConnectionRequest{Peer: "example.com", Port: 53, Protocol: udp}, netpolicy.Probe{Protocol: policy.UDP, Name: "example.com", Port: 53}},
		{&phonehostv1.TestConnectionRequest{Peer: "::1", Direction: ingress, Protocol: icmp}, netpolicy.Probe{Direction: policy.Ingress, Protocol: policy.ICMP, Peer: netip.MustParseAddr("::1")}},
	} {
		d, err := test(tt.q)
		if err != nil || d.GetAllowed() || d.GetPeer() != "10.0.0.1" || d.GetReason() != phonehostv1.DenialReason_DENIAL_REASON_PROTECTED || d.GetRule() != -1 ||
			d.GetProtectedClass() != phonehostv1.ProtectedClass_PROTECTED_CLASS_HOST || d.GetText() == "" || d.GetPolicy() != netpolicy.DefaultPolicy {
			t.Errorf("%v: %v %v", tt.q, d, err)
		}
		if got := w.probes[len(w.probes)-1]; got != tt.want {
			t.Errorf("%v became %+v, want %+v", tt.q, got, tt.want)
		}
	}
}

// TestNumbersAreTheKernels compares the numbers of the API with those of the header that the kernel's programs share.
func TestNumbersAreTheKernels(t *testing.T) {
	header, err := os.ReadFile("../../netpolicy/datapath/bpf/layout.h")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		pattern, prefix string
		known           map[string]int32
	}{
		{`(?m)^\tREASON_(\w+) = (\d+),`, "DENIAL_REASON_", phonehostv1.DenialReason_value},
		{`(?m)^\tPROTECTED_(\w+) = (\d+),`, "PROTECTED_CLASS_", phonehostv1.ProtectedClass_value},
		{`(?m)^\tFLOW_(\w+) = (\d+),`, "FLOW_STATE_", phonehostv1.FlowState_value},
	} {
		found := regexp.MustCompile(tt.pattern).FindAllStringSubmatch(string(header), -1)
		if len(found) < 4 {
			t.Errorf("%s: %d found", tt.prefix, len(found))
		}
		for _, m := range found {
			number, err := strconv.Atoi(m[2])
			if err != nil {
				t.Fatal(err)
			}
			if tt.prefix == "FLOW_STATE_" {
				number++ // the API's 0 is UNSPECIFIED
			} else if number == 0 {
				continue
			}
			if got, has := tt.known[tt.prefix+m[1]]; !has || int(got) != number {
				t.Errorf("%s%s is %d in the API (%v) and %d in the kernel", tt.prefix, m[1], got, has, number)
			}
		}
	}
	for p, name := range map[policy.Protocol]string{policy.TCP: "TCP", policy.UDP: "UDP", policy.ICMP: "ICMP"} {
		if got := phonehostv1.NetworkProtocol_value["NETWORK_PROTOCOL_"+name]; got != int32(p) {
			t.Errorf("%s is %d in the API and %d here", name, got, p)
		}
	}
}
