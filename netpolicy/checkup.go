package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/netpolicy/shape"
	"github.com/phonehost/phonehost/netpolicy/wire"
)

// Uplink is a link by which phones reach the rest of the world, and Conflict is rules of others that keep them from it.
type (
	Uplink   = wire.Uplink
	Conflict = nat.Conflict
)

// Checkup looks at what a host has for phones' networks, beside an Engine with the same Config or without one. What the kernel can do is tried
// in a network namespace that goes with the try; the kernel may load modules for it. Of the host nothing is changed, but that Conflicts
// makes a link and a table for some tens of milliseconds.
//
// Its methods may be called by several goroutines.
type Checkup struct {
	cfg Config
	nat *nat.NAT
	// trial is held while the link of Conflicts is there, and by those whom it would mislead.
	trial sync.Mutex
}

// NewCheckup checks a Config as Open does, and touches nothing. errdefs.ErrInvalidArgument for one that cannot be.
func NewCheckup(c Config) (*Checkup, error) {
	translate, err := nat.New(c.nat())
	if err != nil {
		return nil, err
	}
	return &Checkup{cfg: c, nat: translate}, nil
}

// PinDir tells whether the directory of the pins is on a BPF file system, or can be made on one. It returns the directory.
// errdefs.ErrFailedPrecondition names the file system that it is on instead.
func (c *Checkup) PinDir() (dir string, err error) {
	for dir = c.cfg.Pins; ; dir = filepath.Dir(dir) {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if errors.Is(err, os.ErrNotExist) && dir != "/" && dir != "." {
			continue
		}
		if err != nil {
			return c.cfg.Pins, fmt.Errorf("statfs %s: %w", dir, err)
		}
		if st.Type != unix.BPF_FS_MAGIC {
			return c.cfg.Pins, fmt.Errorf("%s is no BPF file system: %w", dir, errdefs.ErrFailedPrecondition)
		}
		return c.cfg.Pins, nil
	}
}

// Pools tells whether the pools are free: wire.CheckPools.
func (c *Checkup) Pools() error {
	c.trial.Lock()
	defer c.trial.Unlock()
	w, err := c.wire()
	if err != nil {
		return err
	}
	defer w.Close()
	return w.CheckPools()
}

// Uplinks returns the links by which phones reach others: none where the host has no default route.
func (c *Checkup) Uplinks() ([]Uplink, error) {
	w, err := c.wire()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	return w.Uplinks()
}

func (c *Checkup) wire() (*wire.Wire, error) {
	return wire.New(c.cfg.wire())
}

// IPv6 tells whether phones have IPv6.
func (c *Checkup) IPv6() bool { return c.cfg.Pool6.IsValid() }

// Filters tells whether programs can be attached as filters of a clsact qdisc, as they are on kernels without TCX links.
func (c *Checkup) Filters() error { return aside(tryFilter) }

// tryFilter attaches a program that lets all pass to a link of this thread's namespace.
func tryFilter() error {
	link, err := tryLink()
	if err != nil {
		return err
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("load a program: %w", err)
	}
	defer program.Close()
	index := link.Attrs().Index
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		return fmt.Errorf("add a clsact qdisc (CONFIG_NET_SCH_INGRESS): %w", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:          program.FD(), Name: "checkup", DirectAction: true,
	}
	if err := netlink.FilterAdd(filter); err != nil {
		return fmt.Errorf("add a filter (CONFIG_NET_CLS_BPF): %w", err)
	}
	return nil
}

// tryLink makes a link in this thread's namespace, which has none but loopback.
func tryLink() (netlink.Link, error) {
	pair := netlink.NewVeth(netlink.LinkAttrs{Name: wire.LinkName(tryID)})
	pair.PeerName = "peer"
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("make a pair of links (CONFIG_VETH): %w", err)
	}
	return netlink.LinkByName(pair.Name)
}

// tryID stands for a phone where something is tried.
const tryID = "checkup"

// Connections tells what bounds a phone's part of the kernel's table of connections: whether all does that should, and a sentence (nat.Support).
func (c *Checkup) Connections(ctx context.Context) (all bool, text string, err error) {
	err = aside(func() error {
		n, err := nat.New(c.cfg.nat())
		if err != nil {
			return err
		}
		if err := n.Apply(ctx, nil); err != nil {
			return err
		}
		s := n.Support()
		all, text = s.Timeouts && s.Count, s.Text()
		return nil
	})
	return all, text, err
}

// Limits tells whether the kernel can bound bandwidth in both directions. errdefs.ErrNotImplemented names what it lacks.
func (c *Checkup) Limits(ctx context.Context) error {
	return aside(func() error {
		link, err := tryLink()
		if err != nil {
			return err
		}
		return shape.Set(ctx, link.Attrs().Index, tryID, shape.MinBits, shape.MinBits)
	})
}

// aside calls a function in a network namespace of its own, which goes with what the function made in it.
func aside(try func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		done <- try()
	}()
	return <-done
}

// Conflicts returns whose rules drop what phones send: nat.Conflicts.
func (c *Checkup) Conflicts(ctx context.Context) ([]Conflict, error) {
	c.trial.Lock()
	defer c.trial.Unlock()
	return c.nat.Conflicts(ctx)
}

// nameServerPrograms are what the kernel calls the processes of the phones' name server: in the agent's container, and started by hand.
var nameServerPrograms = []string{"service", "phonehostd"}

// Squatters returns the processes that listen where the phones' name server has to, or on all addresses: "dnsmasq (pid 812) listens on 0.0.0.0:53".
func (c *Checkup) Squatters() ([]string, error) {
	var found []string
	for _, gateway := range c.gateways() {
		for _, protocol := range []policy.Protocol{policy.UDP, policy.TCP} {
			all, err := nat.Listeners(protocol, netip.AddrPortFrom(gateway, 53))
			if err != nil {
				return nil, err
			}
			for _, l := range all {
				program, _, _ := strings.Cut(l.Owner, " ")
				if l.Local.Addr() != gateway || !slices.Contains(nameServerPrograms, program) {
					found = append(found, l.Owner+" listens on "+l.Local.String())
				}
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

func (c *Checkup) gateways() []netip.Addr {
	all := []netip.Addr{wire.Gateway(c.cfg.Pool4)}
	if c.IPv6() {
		all = append(all, wire.Gateway(c.cfg.Pool6))
	}
	return all
}

// nameServerTime is how long the name server may take to say that it does not know the host.
const nameServerTime = 2 * time.Second

// NameServer asks the phones' name server something at each gateway address that the host has, by UDP and TCP. It is no phone, so a refusal is the
// answer. asked is false when the host has none of the addresses: they come with the first phone's network.
func (c *Checkup) NameServer(ctx context.Context) (asked bool, err error) {
	c.trial.Lock()
	defer c.trial.Unlock()
	local, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("list the host's addresses: %w", err)
	}
	var errs []error
	for _, gateway := range c.gateways() {
		if !slices.ContainsFunc(local, func(a net.Addr) bool { return strings.HasPrefix(a.String(), gateway.String()+"/") }) {
			continue // a question would leave the host
		}
		asked = true
		for _, network := range []string{"udp", "tcp"} {
			client := dns.Client{Net: network, Timeout: nameServerTime}
			question := new(dns.Msg).SetQuestion("phonehost.invalid.", dns.TypeA)
			if _, _, err := client.ExchangeContext(ctx, question, netip.AddrPortFrom(gateway, 53).String()); err != nil {
				errs = append(errs, fmt.Errorf("ask %s by %s: %w", gateway, network, err))
			}
		}
	}
	return asked, errors.Join(errs...)
}
