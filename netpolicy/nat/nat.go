package nat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Table is the name of the table, of the family inet.
const Table = "phonehost"

// DefaultMaxFlows is how many flows a phone may have if a Config does not say.
const DefaultMaxFlows = 4096

// Timeouts are how long the kernel's conntrack keeps a phone's flow without a packet: whole seconds, 1 s to 30 days. They must be those
// of the datapath.
type Timeouts struct {
	// TCPNew until both sides have spoken; TCPClosing after the first FIN; TCPClosed after the second, or an RST.
	TCPNew, TCPEstablished, TCPClosing, TCPClosed time.Duration
	UDPNew, UDPEstablished                        time.Duration
}

// Config says for whom NAT is.
type Config struct {
	// Pool4 and Pool6 are the phones' addresses; the first of each is the gateway's. Pool6 may be the zero value.
	Pool4, Pool6 netip.Prefix
	// Masquerade4 and Masquerade6 translate what phones send to others than phones to an address of the host; not where the world has
	// routes to the pool.
	Masquerade4, Masquerade6 bool
	// Timeouts of phones' flows, each of them.
	Timeouts Timeouts
	// MaxFlows is how many flows the datapath lets a phone have; 0 is DefaultMaxFlows.
	MaxFlows uint32
	// LinkPrefix is what the names of the phones' links on the host begin with; "" is "ph-".
	LinkPrefix string
	Logger     *slog.Logger
}

// NAT is the table of a Config.
type NAT struct {
	cfg                Config
	gateway4, gateway6 netip.Addr

	mu      sync.Mutex
	support Support
}

// Support is what of the table this kernel has taken.
type Support struct {
	// Timeouts: the flows of phones have times of their own. Without (CONFIG_NF_CONNTRACK_TIMEOUT, CONFIG_NFT_CT, CONFIG_NFT_OBJREF)
	// they live by the host's own, net.netfilter.nf_conntrack_*.
	Timeouts bool
	// Count: each phone's entries in the kernel's table are counted and bounded. Without (CONFIG_NFT_CONNLIMIT) the datapath's limit
	// bounds them, as far as the two agree on when a flow ends.
	Count bool
}

// Text says in one sentence what bounds the part of the kernel's table of connections that a phone can fill, and what would.
func (s Support) Text() string {
	switch {
	case s.Timeouts && s.Count:
		return "the kernel's table of connections is bounded by the number of flows of each phone and by times of their own"
	case s.Count:
		return "this kernel has no times for the flows of phones alone (CONFIG_NF_CONNTRACK_TIMEOUT), so its own hold; each phone's part of the " +
			"table of connections is bounded by number. sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=7440 makes room sooner"
	case s.Timeouts:
		return "this kernel cannot count the connections of each phone (CONFIG_NFT_CONNLIMIT): its table is bounded by the flows that the " +
			"phone's own programs allow and by times of their own"
	}
	return "this kernel neither counts the connections of each phone (CONFIG_NFT_CONNLIMIT) nor has times for them (CONFIG_NF_CONNTRACK_TIMEOUT): " +
		"nothing but net.netfilter.nf_conntrack_max bounds what phones put into its table. " +
		"sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=7440 net.netfilter.nf_conntrack_tcp_timeout_syn_sent=20 makes that less"
}

// New checks a Config. It touches nothing. A Config that cannot be is refused with errdefs.ErrInvalidArgument.
func New(cfg Config) (*NAT, error) {
	if cfg.LinkPrefix == "" {
		cfg.LinkPrefix = "ph-"
	}
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = DefaultMaxFlows
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("nat: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	n := &NAT{cfg: cfg, gateway4: gateway(cfg.Pool4)}
	if cfg.Pool6.IsValid() {
		n.gateway6 = gateway(cfg.Pool6)
	}
	return n, nil
}

func (c Config) check() error {
	switch {
	case !c.Pool4.IsValid() || !c.Pool4.Addr().Is4() || c.Pool4 != c.Pool4.Masked():
		return fmt.Errorf("IPv4 pool %s is no prefix of IPv4 addresses such as 10.213.0.0/16", c.Pool4)
	case c.Pool6.IsValid() && (!c.Pool6.Addr().Is6() || c.Pool6.Addr().Is4In6() || c.Pool6 != c.Pool6.Masked()):
		return fmt.Errorf("IPv6 pool %s is no prefix of IPv6 addresses such as fd70:686f:6e65::/64", c.Pool6)
	case c.Masquerade6 && !c.Pool6.IsValid():
		return errors.New("IPv6 is to be masqueraded without an IPv6 pool")
	case len(c.LinkPrefix) >= unix.IFNAMSIZ:
		return fmt.Errorf("the prefix of links %q is longer than the %d bytes of a link's name", c.LinkPrefix, unix.IFNAMSIZ-1)
	case c.MaxFlows > 1<<20:
		return fmt.Errorf("%d flows of a phone are more than %d", c.MaxFlows, 1<<20)
	}
	t := c.Timeouts
	for _, d := range []time.Duration{t.TCPNew, t.TCPEstablished, t.TCPClosing, t.TCPClosed, t.UDPNew, t.UDPEstablished} {
		if d < time.Second || d > 30*24*time.Hour || d%time.Second != 0 {
			return fmt.Errorf("a flow's time of %s is not in whole seconds from 1 s to 720 h", d)
		}
	}
	return nil
}

// gateway is the first address of a pool.
func gateway(pool netip.Prefix) netip.Addr { return pool.Addr().Next() }

// Apply makes the table what the Config and the forwards say, in one transaction; an error leaves it as it was. Call it again whenever a
// phone's link was made anew, so that forwards on loopback reach it. Forwards that contradict one another are refused, see [Validate].
// That a process of the host listens on a forward's port does not matter here: see Check.
//
// It needs CAP_NET_ADMIN.
func (n *NAT) Apply(ctx context.Context, forwards []Forward) error {
	if err := n.Validate(forwards); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.replace(ctx, forwards); err != nil {
		return err
	}
	return n.routeLoopback(forwards)
}

// variants are the tables to try, the best first.
var variants = []Support{{Timeouts: true, Count: true}, {Count: true}, {Timeouts: true}, {}}

// replace puts in place the best table that the kernel takes.
func (n *NAT) replace(ctx context.Context, forwards []Forward) error {
	var last error
	for _, support := range variants {
		err := n.commit(ctx, support, forwards)
		if err == nil {
			if support != n.support {
				n.support = support
				n.cfg.Logger.Info("table of rules is in place", "table", Table, "bounds", support.Text())
			}
			return nil
		}
		// A kind of object or expression that the kernel lacks is ENOENT or EOPNOTSUPP. Other errors will not go away.
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		last = err
	}
	return last
}

// commit sends the table as one transaction.
func (n *NAT) commit(ctx context.Context, support Support, forwards []Forward) error {
	conn, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseLasting() }()
	old, err := read(conn)
	if err != nil {
		return err
	}
	b := builder{NAT: n, conn: conn, support: support, table: &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}}
	if err := b.build(old, forwards); err != nil {
		return fmt.Errorf("describe table %s: %w", Table, err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("replace table inet %s: %w", Table, err)
	}
	return nil
}

// Support tells what the kernel took when Apply last succeeded.
func (n *NAT) Support() Support {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.support
}

// Remove deletes the table, and with it the times of live flows, and what a trial left that was killed. A table that is not there is no
// error, nor is a kernel without nftables.
func (n *NAT) Remove(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.routeLoopback(nil); err != nil {
		return err
	}
	conn, err := open(ctx)
	if errors.Is(err, unix.EPROTONOSUPPORT) { // nfnetlink can be had no more than nftables
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseLasting() }()
	conn.DelTable(&nftables.Table{Name: Table, Family: nftables.TableFamilyINet})
	switch err := conn.Flush(); {
	case errors.Is(err, unix.EOPNOTSUPP): // nftables cannot be had
		return nil
	case err != nil && !errors.Is(err, unix.ENOENT):
		return fmt.Errorf("delete table inet %s: %w", Table, err)
	}
	n.support = Support{}
	return n.removeTrial(ctx)
}
