package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/time/rate"

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
	// Settings is a file that keeps what settings of the host's were before they were changed; empty: that is not kept.
	Settings string
	// Logger gets what is neither an error nor an answer; default: nothing is logged.
	Logger *slog.Logger
}

// wire and nat are the parts of the Config for the packages of these names. The kernel's table has the datapath's times.
func (c Config) wire() wire.Config {
	return wire.Config{NetNS: c.NetNS, Pool4: c.Pool4, Pool6: c.Pool6, Uplink: c.Uplink, Settings: c.Settings, Logger: c.Logger}
}

func (c Config) nat() nat.Config {
	t := datapath.DefaultTimeouts
	return nat.Config{
		Pool4: c.Pool4, Pool6: c.Pool6, Masquerade4: c.Masquerade4, Masquerade6: c.Masquerade6, MaxFlows: c.MaxFlows, Logger: c.Logger,
		Timeouts: nat.Timeouts{
			TCPNew: t.TCPNew, TCPEstablished: t.TCPEstablished, TCPClosing: t.TCPClosing, TCPClosed: t.TCPClosed,
			UDPNew: t.UDPNew, UDPEstablished: t.UDPEstablished,
		},
	}
}

// Engine is the networks of a host's phones.
type Engine struct {
	cfg  Config
	log  *slog.Logger
	wire *wire.Wire
	data *datapath.Datapath
	nat  *nat.NAT

	stop  context.CancelFunc
	tasks sync.WaitGroup // all that runs until Close
	watch watchers

	changing sync.Mutex // held while a policy is put in force or forgotten, and while the name server is told
	natting  sync.Mutex // held while the nftables table is replaced; guards translated
	// translated is what the table says; nil: not known.
	translated []translation

	mu       sync.Mutex
	phones   map[string]attached   // whose networks are up
	expected map[string]Phone      // whose networks an earlier Engine made, and this one has not looked at yet
	policies map[string]loaded     // by name
	classes  []policy.AddressClass // what is protected
	busy     map[string]*turn      // by phone, while its link is worked on
}

// turn is whose turn it is to work on a phone's link.
type turn struct {
	sync.Mutex
	users int // who have it or wait for it; guarded by Engine.mu
}

// attached is a phone whose network is up.
type attached struct {
	Phone
	link  wire.Link
	mends *rate.Limiter // how often the link is made anew
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
	e := &Engine{cfg: c, log: c.Logger, phones: map[string]attached{}, expected: map[string]Phone{}, policies: map[string]loaded{}, busy: map[string]*turn{}, watch: watchers{joined: make(chan struct{}, 1)}}
	if e.wire, err = wire.New(c.wire()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	if err := e.wire.CheckPools(); err != nil {
		return nil, err
	}
	if e.nat, err = nat.New(c.nat()); err != nil {
		return nil, err
	}
	e.data, err = datapath.Open(datapath.Config{
		Dir: c.Pins, MaxPhones: c.MaxPhones, MaxFlows: c.MaxFlows, Sample: c.Sample, Timeouts: datapath.DefaultTimeouts, Logger: c.Logger,
	})
	if err != nil {
		return nil, err
	}
	if err := e.begin(ctx); err != nil {
		return nil, err
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
	e.tasks.Go(func() { e.followLinks(running) })
	dropped := make(chan uint32, 64)
	e.tasks.Go(func() { e.readEvents(running, dropped) })
	e.tasks.Go(func() { e.reportDenials(running, dropped) })
	return nil
}

// Expect says whose networks there should be already, before any of them is looked at by Ensure: so that their forwards and policies stay
// while they are gone through one after another.
func (e *Engine) Expect(phones []Phone) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range phones {
		if _, up := e.phones[p.ID]; !up {
			e.expected[p.ID] = p
		}
	}
}

// Close ends what runs here and gives the handles up. What the kernel enforces it goes on enforcing.
func (e *Engine) Close() error {
	if e.stop != nil {
		e.stop()
	}
	e.tasks.Wait()
	if e.wire != nil {
		e.wire.Close()
	}
	if e.data == nil {
		return nil
	}
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

// lock keeps others from a phone's link until the function that it returns is called.
func (e *Engine) lock(id string) (unlock func()) {
	e.mu.Lock()
	t := e.busy[id]
	if t == nil {
		t = new(turn)
		e.busy[id] = t
	}
	t.users++
	e.mu.Unlock()
	t.Lock()
	return func() {
		t.Unlock()
		e.mu.Lock()
		defer e.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(e.busy, id)
		}
	}
}

// tell tells the name server what it has to know. changing is held.
func (e *Engine) tell() error {
	s := resolver.State{Upstreams: e.cfg.NameServers, Policies: map[uint32]policy.Policy{}}
	e.mu.Lock()
	s.Protected = e.classes
	for _, p := range e.policies {
		if p.known {
			s.Policies[p.slot] = p.policy
		}
	}
	e.mu.Unlock()
	return resolver.WriteState(e.cfg.NameServerState, s)
}
