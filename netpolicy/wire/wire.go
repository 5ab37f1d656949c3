package wire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/phonehost/phonehost/netpolicy/netns"
)

// Config says where phones are wired.
type Config struct {
	// NetNS has the phones' namespaces, by id.
	NetNS netns.Dir
	// Pool4 and Pool6 are what phones' addresses are taken from, see CheckPool. Pool6 is the zero value for no IPv6.
	Pool4, Pool6 netip.Prefix
	// Uplink is the link to the network; empty: those of the default routes with the lowest metric, one for each family.
	Uplink string
	// Settings is a file that keeps what settings of the host were before they were changed, for Restore; it should go with a boot, as the
	// settings do. Empty: that is not kept.
	Settings string
	// Logger takes what is mended and what Watch cannot do; nil: slog.Default.
	Logger *slog.Logger
}

// Phone is whose link it is.
type Phone struct {
	// ID is the phone's name; IPv4 and IPv6 are its addresses (Usable). IPv6 is the zero value when there is no pool of it.
	ID         string
	IPv4, IPv6 netip.Addr
}

// Link is a phone's host end.
type Link struct {
	// Index is its ifindex, which changes when the pair is made anew, and Name its name.
	Index int
	Name  string
	// MAC is the address of the phone's end, GatewayMAC that of the host's.
	MAC, GatewayMAC net.HardwareAddr
	// MTU of both ends, in bytes.
	MTU int
	// Up tells whether the host end is up.
	Up bool
}

// Wire wires phones.
type Wire struct {
	config Config
	log    *slog.Logger
	conn   conn
	// before is called before each change, with what it is about; tests stop there.
	before  func(what string) error
	keeping sync.Mutex // held while Config.Settings is read or written
	// global makes IPv6 forwarding what it is before Linux 6.17.
	global bool
	// receive is the size of the buffer of Watch's socket, 0 for what suits.
	receive int
}

// New returns a Wire in the calling thread's network namespace. It changes nothing. Close it after use.
func New(config Config) (*Wire, error) {
	if err := CheckPool(config.Pool4); err != nil {
		return nil, fmt.Errorf("network.ipv4_pool: %w", err)
	}
	if !config.Pool4.Addr().Is4() {
		return nil, fmt.Errorf("network.ipv4_pool: %s is no IPv4 prefix: %w", config.Pool4, errdefs.ErrInvalidArgument)
	}
	if config.Pool6.IsValid() {
		if err := CheckPool(config.Pool6); err != nil {
			return nil, fmt.Errorf("network.ipv6_pool: %w", err)
		}
		if config.Pool6.Addr().Is4() {
			return nil, fmt.Errorf("network.ipv6_pool: %s is no IPv6 prefix: %w", config.Pool6, errdefs.ErrInvalidArgument)
		}
	}
	c, err := dial()
	if err != nil {
		return nil, err
	}
	return &Wire{config: config, log: cmp.Or(config.Logger, slog.Default()), conn: c}, nil
}

// Close lets go of the kernel; what was wired stays. It must not be called during another call.
func (w *Wire) Close() { w.conn.Close() }

// act makes one change, unless the context has ended.
func (w *Wire) act(ctx context.Context, what string, change func() error) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if w.before != nil {
		if err := w.before(what); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := change(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Ensure gives the phone its namespace, when it has none, and its link, and mends what differs from what should be. A pair that it makes is
// down at the host's end; one that is up stays up. Errors are of errdefs.ErrInvalidArgument for addresses that are not Usable, and of
// errdefs.ErrAlreadyExists when a link that is not the phone's has the name of its host end.
func (w *Wire) Ensure(ctx context.Context, p Phone) (Link, error) {
	link, err := w.ensure(ctx, p, false)
	if err != nil {
		return Link{}, fmt.Errorf("wire phone %s: %w", p.ID, err)
	}
	return link, nil
}

// Up does what Ensure does and brings the host end up. It fails with errdefs.ErrFailedPrecondition when there is no pair yet: what
// guards the link has to be attached between Ensure and Up.
func (w *Wire) Up(ctx context.Context, p Phone) error {
	if _, err := w.ensure(ctx, p, true); err != nil {
		return fmt.Errorf("bring up the link of phone %s: %w", p.ID, err)
	}
	return nil
}

func (w *Wire) ensure(ctx context.Context, p Phone, up bool) (Link, error) {
	if err := w.check(p); err != nil {
		return Link{}, err
	}
	mtu, err := w.prepare(ctx)
	if err != nil {
		return Link{}, err
	}
	if err := w.act(ctx, "make its namespace", func() error { _, err := w.config.NetNS.Create(p.ID); return err }); err != nil {
		return Link{}, err
	}
	ns, err := w.enter(p.ID)
	if err != nil {
		return Link{}, err
	}
	defer ns.close()
	host, guest, err := w.pair(ctx, p.ID, ns, mtu, up)
	if err != nil {
		return Link{}, err
	}
	if err := w.setHost(ctx, host, p, mtu, up); err != nil {
		return Link{}, err
	}
	if err := w.setGuest(ctx, guest, p, mtu); err != nil {
		return Link{}, err
	}
	guestMAC, hostMAC := MACs(p.ID)
	return Link{
		Index: host.link.Index, Name: host.link.Name, MAC: guestMAC, GatewayMAC: hostMAC, MTU: mtu,
		Up: up || host.link.Flags&net.FlagUp != 0,
	}, nil
}

// check refuses phones that cannot be wired.
func (w *Wire) check(p Phone) error {
	if err := Usable(w.config.Pool4, p.IPv4); err != nil {
		return err
	}
	if !w.config.Pool6.IsValid() {
		if p.IPv6.IsValid() {
			return fmt.Errorf("address %s: network.ipv6_pool is empty: %w", p.IPv6, errdefs.ErrInvalidArgument)
		}
		return nil
	}
	return Usable(w.config.Pool6, p.IPv6)
}

// Remove deletes the phone's pair, and with it all that hangs on it: addresses, routes, neighbours, settings. A phone without one is no
// error. Its namespace stays, which is its owner's to delete.
func (w *Wire) Remove(ctx context.Context, id string) error {
	link, err := w.hostEnd(id)
	if err != nil {
		return fmt.Errorf("remove the link of phone %s: %w", id, err)
	}
	if link == nil {
		return nil
	}
	if err := w.removeLink(ctx, link); err != nil {
		return fmt.Errorf("remove the link of phone %s: %w", id, err)
	}
	return nil
}

func (w *Wire) removeLink(ctx context.Context, link netlink.Link) error {
	return w.act(ctx, "delete "+link.Attrs().Name, func() error { return ignoreGone(w.conn.LinkDel(link)) })
}

// List returns the ids of the phones that have a pair, in order. A pair that a crash left without its alias is listed when the phone has a
// namespace; Sweep finds it otherwise.
func (w *Wire) List() ([]string, error) {
	links, err := w.hostEnds()
	if err != nil {
		return nil, err
	}
	byName := map[string]string{}
	names, err := w.config.NetNS.List()
	if err != nil {
		return nil, err
	}
	for _, id := range names {
		byName[LinkName(id)] = id
	}
	var ids []string
	for _, link := range links {
		id, ok := owner(link.Name, link.Alias)
		if !ok {
			id, ok = byName[link.Name]
		}
		if ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Sweep deletes the pairs of phones that keep does not name, those without an alias included. One that cannot be deleted does not keep the
// others from it.
func (w *Wire) Sweep(ctx context.Context, keep []string) error {
	links, err := w.hostEnds()
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, id := range keep {
		kept[LinkName(id)] = true
	}
	var errs []error
	for _, link := range links {
		if kept[link.Name] {
			continue
		}
		w.log.Info("deleting a link that no phone owns", "link", link.Name, "alias", link.Alias)
		errs = append(errs, w.removeLink(ctx, &netlink.Veth{LinkAttrs: *link}))
	}
	return errors.Join(errs...)
}

// hostEnds returns the links that are host ends by name, kind and alias. One without an alias counts while it is down.
func (w *Wire) hostEnds() ([]*netlink.LinkAttrs, error) {
	all, err := retry(w.conn.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var ends []*netlink.LinkAttrs
	for _, link := range all {
		if a := link.Attrs(); isHostEnd(link) && (a.Alias != "" || a.Flags&net.FlagUp == 0) {
			ends = append(ends, a)
		}
	}
	return ends, nil
}

// isHostEnd tells whether a link is the host end of some phone.
func isHostEnd(link netlink.Link) bool {
	a := link.Attrs()
	if link.Type() != "veth" || !hostName.MatchString(a.Name) {
		return false
	}
	_, ok := owner(a.Name, a.Alias)
	return ok || a.Alias == ""
}

// hostEnd returns the phone's host end, nil when there is none.
func (w *Wire) hostEnd(id string) (netlink.Link, error) {
	name := LinkName(id)
	link, err := w.conn.LinkByName(name)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", name, err)
	}
	alias := link.Attrs().Alias
	if got, ok := owner(name, alias); !isHostEnd(link) || ok && got != id {
		return nil, fmt.Errorf("the link %s (%s, alias %q) has the name of the phone's host end but is not: rename or delete it: %w",
			name, link.Type(), alias, errdefs.ErrAlreadyExists)
	}
	return link, nil
}

// inside is a phone's namespace, entered.
type inside struct {
	conn conn
	file *os.File
}

func (n inside) close() {
	n.conn.Close()
	n.file.Close()
}

// enter opens the phone's namespace.
func (w *Wire) enter(id string) (inside, error) {
	file, err := os.Open(w.config.NetNS.Path(id))
	if err != nil {
		return inside{}, fmt.Errorf("open its namespace: %w", err)
	}
	n := inside{file: file}
	if err := w.config.NetNS.Do(id, func() (err error) { n.conn, err = dial(); return err }); err != nil {
		file.Close()
		return inside{}, err
	}
	return n, nil
}
