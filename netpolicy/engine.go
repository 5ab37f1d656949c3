package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/netns"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/netpolicy/resolver"
	"github.com/phonehost/phonehost/netpolicy/wire"
)

// Config says what the phones' networks are made of.
type Config struct {
	// NetNS is the directory of the phones' network namespaces.
	NetNS netns.Dir
	// Pins is where the kernel's objects are pinned, a directory on a BPF file system that Open makes: "/sys/fs/bpf/phonehost/net".
	Pins string
	// Pool4 and Pool6 are the phones' addresses; the first of each is the gateway. Pool6 may be the zero value: no IPv6.
	Pool4, Pool6 netip.Prefix
	// Uplink is the interface by which phones reach the rest of the world; empty: that of the default route.
	Uplink string
	// Masquerade4 and Masquerade6 hide the pools behind the host's addresses; false where they are routed to the host.
	Masquerade4, Masquerade6 bool
	// MaxPhones bounds the phones of the host (default 1024), and MaxFlows the live flows of each (default 4096).
	MaxPhones, MaxFlows uint32
	// Sample logs one flow of so many; 0: none.
	Sample uint32
	// NameServerState is the directory that the name server reads; NameServers are the upstreams it asks, empty: those of the host.
	NameServerState string
	NameServers     []netip.AddrPort
	// Logger gets what is neither an error nor an answer; default: nothing is logged.
	Logger *slog.Logger
}

// Engine is the networks of a host's phones.
type Engine struct {
	cfg  Config
	log  *slog.Logger
	wire *wire.Wire
	data *datapath.Datapath
	nat  *nat.Table

	stop  context.CancelFunc
	tasks sync.WaitGroup // all that runs until Close
	watch watchers

	mu       sync.Mutex
	phones   map[string]attached // whose networks are up
	policies map[string]loaded   // by name
	classes  []policy.AddressClass

	natMu sync.Mutex // held while the nftables table is replaced
}

// attached is a phone whose network is up.
type attached struct {
	Phone
	link wire.Link
}

// Open finds what an earlier Engine left in the kernel, and goes on with it. What the host's networks are is read, and the phones'
// pools compared with them: errdefs.ErrFailedPrecondition if they overlap. errdefs.ErrNotImplemented says what the kernel lacks. The caller closes the
// Engine; the kernel goes on enforcing.
func Open(ctx context.Context, c Config) (_ *Engine, err error) {
	if c.MaxPhones == 0 {
		c.MaxPhones = 1024
	}
	if c.MaxFlows == 0 {
		c.MaxFlows = 4096
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{cfg: c, log: c.Logger, phones: map[string]attached{}, policies: map[string]loaded{}}
	if e.wire, err = wire.New(wire.Config{NetNS: c.NetNS, Pool4: c.Pool4, Pool6: c.Pool6, Uplink: c.Uplink, Logger: c.Logger}); err != nil {
		return nil, err
	}
	if err := e.wire.CheckPools(); err != nil {
		return nil, err
	}
	if e.nat, err = nat.New(nat.Config{
		Pool4: c.Pool4, Pool6: c.Pool6, Masquerade4: c.Masquerade4, Masquerade6: c.Masquerade6, Timeouts: natTimeouts(datapath.DefaultTimeouts),
	}); err != nil {
		return nil, err
	}
	e.data, err = datapath.Open(datapath.Config{
		Dir: c.Pins, MaxPhones: c.MaxPhones, MaxFlows: c.MaxFlows, Sample: c.Sample, Timeouts: datapath.DefaultTimeouts, Logger: c.Logger,
	})
	if err != nil {
		return nil, err
	}
	if err := e.begin(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// begin reads the host and the kernel, and starts what runs until Close.
func (e *Engine) begin(ctx context.Context) error {
	if err := e.readPolicies(); err != nil {
		return err
	}
	if err := e.protect(ctx); err != nil {
		return err
	}
	if err := e.SetPolicy(ctx, DefaultPolicy, policy.Policy{Default: policy.AllowInternet}); err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	e.tasks.Go(func() { e.followHost(running) })
	events, err := e.data.Events(running)
	if err != nil {
		return err
	}
	e.tasks.Go(func() { e.report(running, events) })
	return nil
}

// Close ends what runs here and gives the handles up. What the kernel enforces it goes on enforcing.
func (e *Engine) Close() error {
	if e.stop != nil {
		e.stop()
	}
	e.tasks.Wait()
	return e.data.Close()
}

// Gateways returns the addresses of the phones' gateways, where the name server listens.
func (e *Engine) Gateways() []netip.Addr {
	all := []netip.Addr{wire.Gateway(e.cfg.Pool4)}
	if e.cfg.Pool6.IsValid() {
		all = append(all, wire.Gateway(e.cfg.Pool6))
	}
	return all
}

// phone returns a phone whose network is up.
func (e *Engine) phone(id string) (attached, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, found := e.phones[id]
	if !found {
		return attached{}, fmt.Errorf("phone %s has no network: %w", id, errdefs.ErrNotFound)
	}
	return p, nil
}

// names returns the phones whose networks are up, by slot.
func (e *Engine) names() map[uint32]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := make(map[uint32]string, len(e.phones))
	for id, p := range e.phones {
		names[p.Slot] = id
	}
	return names
}

// natTimeouts says the datapath's times in nat's words.
func natTimeouts(t datapath.Timeouts) nat.Timeouts {
	return nat.Timeouts{
		TCPNew: t.TCPNew, TCPEstablished: t.TCPEstablished, TCPClosing: t.TCPClosing, TCPClosed: t.TCPClosed,
		UDPNew: t.UDPNew, UDPEstablished: t.UDPEstablished, ICMP: t.ICMP,
	}
}

// state is what the name server is told.
func (e *Engine) state() resolver.State {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := resolver.State{Upstreams: e.cfg.NameServers, Protected: e.classes, Policies: map[uint32]policy.Policy{}}
	for _, p := range e.policies {
		if p.known {
			s.Policies[p.slot] = p.policy
		}
	}
	return s
}
