package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/singleflight"
)

// Server is the name server. Run runs it; the other methods may be called from several goroutines meanwhile.
type Server struct {
	cfg    Config
	open   func() (Leases, error)
	log    *slog.Logger
	now    func() time.Time
	counts counters
	cache  *cache
	ask    *upstreams
	flight singleflight.Group
	rates  *rates
	// waiting are the questions that are being answered, by the phone's slot, and connections the TCP connections, by address.
	waiting     *places[uint32]
	connections *places[netip.Addr]
	denials     denials

	rules   atomic.Pointer[rules]
	host    atomic.Pointer[[]netip.AddrPort] // upstreams of the host's resolv.conf
	serving atomic.Bool

	mu     sync.RWMutex // held, for reading, while leases are used
	leases Leases
}

// Options are what a Server needs besides its Config.
type Options struct {
	// Leases opens the datapath's maps; it is called again when they were replaced.
	Leases func() (Leases, error)
	// Logger gets what goes wrong; default: nothing is logged.
	Logger *slog.Logger
}

// New reads the state and opens the maps. errdefs.ErrInvalidArgument is an error of the Config; without maps there is no server, while a
// state that is missing or broken may come. The caller calls Run, once.
func New(c Config, o Options) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("name server: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: c, open: o.Leases, log: o.Logger, now: time.Now, cache: newCache(cacheBytes), rates: newRates(),
		waiting: newPlaces[uint32](waitingPerPhone, waitingInAll), connections: newPlaces[netip.Addr](connectionsPerPhone, connectionsInAll),
	}
	s.ask = &upstreams{count: &s.counts}
	s.rules.Store((&rules{}).read(c.State, o.Logger))
	s.readHost()
	leases, err := o.Leases()
	if err != nil {
		return nil, fmt.Errorf("name server: %w", err)
	}
	s.leases = leases
	return s, nil
}

// drainTime is how long a server that ends still takes what the kernel had given it: messages in its queue, and connections whose
// handshake had begun.
const drainTime = 200 * time.Millisecond

// How often leases that have ended are forgotten, and whether the maps were replaced is looked at.
const (
	forgetTime = time.Minute
	lookTime   = 2 * time.Second
)

// Run answers until ctx ends; then it lets others take over, answers what it was asked before, and returns nil. An error means that it
// cannot listen, or that it cannot watch its files.
func (s *Server) Run(ctx context.Context) (err error) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		err = errors.Join(err, s.leases.Close())
	}()
	watch, err := s.watch()
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	defer watch.close()
	socks, err := listen(s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	control, err := s.listenControl()
	if err != nil {
		return errors.Join(fmt.Errorf("name server: %w", err), socks.close())
	}
	// Answers that are on their way outlive ctx; what upstreams do not answer ends by itself.
	working := context.WithoutCancel(ctx)
	var readers, answers, tasks sync.WaitGroup
	for _, u := range socks.udp {
		readers.Go(func() { s.serveUDP(working, u, &answers) })
	}
	for _, l := range socks.tcp {
		readers.Go(func() { s.serveTCP(ctx, working, l, &answers) })
	}
	looking, stop := context.WithCancel(working)
	tasks.Go(func() { watch.run(looking) })
	tasks.Go(func() { s.lookAfter(looking) })
	s.serving.Store(true)
	s.log.Info("name server answers", "listen", s.cfg.Listen, "version", s.cfg.Version)

	<-ctx.Done()
	s.serving.Store(false)
	socks.yield(s.log)
	time.Sleep(drainTime)
	socks.stop()
	readers.Wait() // before answers, to which they add
	answers.Wait()
	stop()
	err = errors.Join(control.Close(), socks.close())
	tasks.Wait()
	s.log.Info("name server has ended")
	return err
}

// lookAfter does what is to be done now and then.
func (s *Server) lookAfter(ctx context.Context) {
	look, forget := time.NewTicker(lookTime), time.NewTicker(forgetTime)
	defer look.Stop()
	defer forget.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			s.reopen()
		case <-forget.C:
			s.rates.forget(s.now())
			s.mu.RLock()
			err := s.leases.Expire()
			s.mu.RUnlock()
			if err != nil {
				s.log.Warn("leases that have ended are not forgotten", "error", err)
			}
		}
	}
}

// reopen opens the maps anew if they were replaced. Until it succeeds the old ones are asked, which know no phones.
func (s *Server) reopen() {
	s.mu.RLock()
	stale := s.leases.Stale()
	s.mu.RUnlock()
	if !stale {
		return
	}
	next, err := s.open()
	if err != nil {
		s.log.Warn("the datapath's maps were replaced and cannot be opened yet", "error", err)
		return
	}
	s.mu.Lock()
	old := s.leases
	s.leases = next
	s.mu.Unlock()
	s.log.Info("the datapath's maps were replaced, and opened anew")
	if err := old.Close(); err != nil {
		s.log.Warn("close the former maps", "error", err)
	}
}

// client returns the phone that has an address.
func (s *Server) client(a netip.Addr) (Client, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.leases.Client(a)
}

// openAll opens addresses for a phone. It returns errdefs.ErrNotFound when the phone is gone.
func (s *Server) openAll(c Client, a admission, now time.Time) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range a.addresses {
		for _, id := range a.ids {
			if err := s.leases.Open(c, l.address, id, now.Add(openFor(l.ttl))); err != nil {
				return err
			}
			s.counts.opened.Add(1)
		}
	}
	return nil
}

// readHost reads the host's name servers, if there are none in the state; what was read last stays when that cannot be.
func (s *Server) readHost() {
	list, err := readResolvConf(s.cfg.ResolvConf)
	if err != nil {
		s.log.Warn("the host's name servers stay as they were", "error", err)
		return
	}
	s.host.Store(&list)
}

// servers are the upstreams, but for ourselves.
func (s *Server) servers() []netip.AddrPort {
	list := s.rules.Load().upstreams
	if host := s.host.Load(); len(list) == 0 && host != nil {
		list = *host
	}
	return slices.DeleteFunc(slices.Clone(list), func(a netip.AddrPort) bool { return slices.Contains(s.cfg.Listen, a) })
}

// Status is what a Server tells of itself.
type Status struct {
	// Serving tells that it listens and knows the policies: it answers. Version is the Config's.
	Serving bool
	Version string
	// Policies is how many it knows, and Upstreams whom it asks.
	Policies  int
	Upstreams []netip.AddrPort
	Counters  Counters
}

// Status returns what there is to say now.
func (s *Server) Status() Status {
	r := s.rules.Load()
	return Status{
		Serving: s.serving.Load() && r.protected != nil, Version: s.cfg.Version, Policies: len(r.policies), Upstreams: s.servers(),
		Counters: s.counts.read(),
	}
}

// TakeDenials returns what was refused since the last call.
func (s *Server) TakeDenials() []Denial { return s.denials.take() }

// gone tells that a phone is not there any more.
func gone(err error) bool { return errdefs.IsNotFound(err) }
