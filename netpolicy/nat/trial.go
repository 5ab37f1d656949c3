package nat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A trial sends packets from a link that looks like a phone's, and sees what becomes of them: the first one of a connection to an address
// that routers lead to the uplink, and a question to the name server. All rules of the host are asked, whoever made them. Both packets
// end in a table of the trial's own, before they would leave or reach a socket.
//
// Its link is a veth pair whose two ends are on the host, so that no namespace is needed: what is written to the one end arrives at the
// other. A crash in between leaves the pair and the table, which the next trial replaces; neither lets anything through. netpolicy/wire
// knows the link by its name, and does not take its addresses for the host's.

// trialTable is the table of a trial, and the ports are those that its packets are for and come from.
const (
	trialTable = "phonehost-trial"
	worldPort  = 443
	namesPort  = 53
	trialPort  = 40443
)

// trialTo are addresses that nobody has (RFC 5737, RFC 3849).
var trialTo = map[byte]netip.Addr{
	unix.NFPROTO_IPV4: netip.MustParseAddr("203.0.113.1"),
	unix.NFPROTO_IPV6: netip.MustParseAddr("2001:db8:7068::1"),
}

// trialWait is how long the kernel may take over a packet that nobody reports to have dropped, and trialTries how often it is sent:
// a packet can be lost for other reasons on a busy host.
const (
	trialWait  = 500 * time.Millisecond
	trialTries = 3
)

// trial is one such link.
type trial struct {
	link, far netlink.Link
}

// probe is a packet to try.
type probe struct {
	family   byte
	protocol byte // TCP for the world, UDP for names
	from, to netip.Addr
	port     uint16
}

func (p probe) six() bool   { return p.family == unix.NFPROTO_IPV6 }
func (p probe) names() bool { return p.protocol == unix.IPPROTO_UDP }

// outcome is what became of a packet.
type outcome struct {
	passed bool
	// dropped tells that nftables dropped it, by drop. If neither holds it has vanished.
	dropped bool
	drop    step
}

// newTrial makes the link and the table that ends the packets.
func (n *NAT) newTrial(ctx context.Context, probes []probe) (_ *trial, err error) {
	near, far := n.cfg.LinkPrefix+"trial", n.cfg.LinkPrefix+"tria0"
	if old, err := netlink.LinkByName(near); err == nil {
		if err := netlink.LinkDel(old); err != nil {
			return nil, fmt.Errorf("remove the link of an earlier trial: %w", err)
		}
	}
	pair := netlink.NewVeth(netlink.LinkAttrs{Name: near})
	pair.PeerName = far
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("make the link of a trial: %w", err)
	}
	t := &trial{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.remove(ctx, pair))
		}
	}()
	for _, end := range []struct {
		name string
		link *netlink.Link
	}{{near, &t.link}, {far, &t.far}} {
		if *end.link, err = netlink.LinkByName(end.name); err != nil {
			return nil, fmt.Errorf("find link %s of a trial: %w", end.name, err)
		}
	}
	// The far end takes no part in the host's IP.
	_ = os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", far, "disable_ipv6"), []byte("1"), 0)
	for _, p := range probes {
		if err := t.open(p); err != nil {
			return nil, err
		}
	}
	for _, link := range []netlink.Link{t.far, t.link} {
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("bring link %s of a trial up: %w", link.Attrs().Name, err)
		}
	}
	for _, p := range probes {
		if p.names() {
			continue // the other of its family has the same source
		}
		route := &netlink.Route{LinkIndex: t.link.Attrs().Index, Dst: alone(p.from), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(route); err != nil {
			return nil, fmt.Errorf("route %s to the link of a trial: %w", p.from, err)
		}
	}
	return t, tableOfTrial(ctx, near, probes)
}

// open lets the link's packets be forwarded, or gives it the gateway's address, as phones' links have both.
func (t *trial) open(p probe) error {
	if p.names() {
		address := &netlink.Addr{IPNet: alone(p.to)}
		if p.six() {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(t.link, address); err != nil {
			return fmt.Errorf("give %s to the link of a trial: %w", p.to, err)
		}
		return nil
	}
	dir, switches := "/proc/sys/net/ipv4/conf", []string{"forwarding"}
	if p.six() {
		dir, switches = "/proc/sys/net/ipv6/conf", []string{"forwarding", "force_forwarding"}
	}
	for _, name := range switches {
		err := os.WriteFile(filepath.Join(dir, t.link.Attrs().Name, name), []byte("1"), 0)
		if name == "force_forwarding" && errors.Is(err, os.ErrNotExist) {
			continue // it came with Linux 6.17; before, conf.all.forwarding decides
		}
		if err != nil {
			return fmt.Errorf("let packets of %s be forwarded: %w", p.from, err)
		}
	}
	return nil
}

// alone is the prefix of one address.
func alone(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// tableOfTrial replaces the table of a trial: it traces what comes from the link and drops it once nothing but translation, or a socket,
// is to come.
func tableOfTrial(ctx context.Context, link string, probes []probe) error {
	conn, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseLasting() }()
	table := &nftables.Table{Name: trialTable, Family: nftables.TableFamilyINet}
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	chain := func(name string, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &priority})
	}
	begin := chain("begin", nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw-2*before)
	leave := chain("leave", nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource-2*before)
	arrive := chain("arrive", nftables.ChainHookInput, *nftables.ChainPriorityConntrackHelper)
	name := append([]byte(link), 0)
	conn.AddRule(&nftables.Rule{Table: table, Chain: begin, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: append(name, make([]byte, unix.IFNAMSIZ-len(name))...)},
		&expr.Immediate{Register: reg1, Data: []byte{1}},
		&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: reg1},
	}})
	for _, p := range probes {
		f, end := ipv4, leave
		if p.six() {
			f = ipv6
		}
		if p.names() {
			end = arrive
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: end, Exprs: join(f.is(), f.in(f.loadSource(), netip.PrefixFrom(p.from, p.from.BitLen())),
			f.in(f.loadDestination(), netip.PrefixFrom(p.to, p.to.BitLen())), verdict(expr.VerdictDrop))})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("make table inet %s: %w", trialTable, err)
	}
	return nil
}

// remove takes the link and the table away, also when ctx has ended.
func (t *trial) remove(ctx context.Context, link netlink.Link) error {
	err := removeTrialTable(ctx)
	if delErr := netlink.LinkDel(link); delErr != nil {
		err = errors.Join(err, fmt.Errorf("remove the link of a trial: %w", delErr))
	}
	return err
}

// removeTrialTable takes the table of a trial away, if there is one, also when ctx has ended.
func removeTrialTable(ctx context.Context) error {
	conn, err := open(context.WithoutCancel(ctx))
	if err == nil {
		table := &nftables.Table{Name: trialTable, Family: nftables.TableFamilyINet}
		conn.AddTable(table) // so that it is there to be deleted
		conn.DelTable(table)
		err = errors.Join(conn.Flush(), conn.CloseLasting())
	}
	if err != nil {
		return fmt.Errorf("delete table inet %s: %w", trialTable, err)
	}
	return nil
}

// removeTrial takes away what a trial left that was killed.
func (n *NAT) removeTrial(ctx context.Context) error {
	link, err := netlink.LinkByName(n.cfg.LinkPrefix + "trial")
	switch {
	case err == nil:
		return (&trial{}).remove(ctx, link)
	case errors.As(err, new(netlink.LinkNotFoundError)):
		return removeTrialTable(ctx)
	}
	return fmt.Errorf("look for the link of a trial: %w", err)
}

// send sends a packet and tells what became of it.
func (t *trial) send(ctx context.Context, p probe) (outcome, error) {
	tracer, err := newTracer(t.link.Attrs().Index)
	if err != nil {
		return outcome{}, err
	}
	defer tracer.close()
	frame := p.frame(t.link.Attrs().HardwareAddr, t.far.Attrs().HardwareAddr)
	var o outcome
	for try := 0; try < trialTries && !o.passed && !o.dropped && err == nil; try++ {
		if err = t.write(frame); err != nil {
			break
		}
		err = tracer.until(ctx, time.Now().Add(trialWait), func(s step) bool {
			if !s.dropped {
				return false
			}
			o.passed = s.table == trialTable
			o.dropped, o.drop = !o.passed, s
			return true
		})
	}
	return o, err
}

// write puts a frame on the wire at the far end.
func (t *trial) write(frame []byte) error {
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket of packets: %w", err)
	}
	defer unix.Close(s)
	// The queue of a link that has just come up drops what it is given.
	if err := unix.SetsockoptInt(s, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return fmt.Errorf("send past the queue of the link of a trial: %w", err)
	}
	if err := unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: t.far.Attrs().Index}); err != nil {
		return fmt.Errorf("send a packet on the link of a trial: %w", err)
	}
	return nil
}

// Lengths of headers in bytes.
const (
	ipv4Size = 20
	tcpSize  = 20
	udpSize  = 8
)

// frame is the packet on Ethernet.
func (p probe) frame(to, by net.HardwareAddr) []byte {
	frame := append(append([]byte{}, to...), by...)
	addresses := append(p.from.AsSlice(), p.to.AsSlice()...)
	pseudo := append([]byte{}, addresses...) // what the checksum has of the packet besides the segment
	var size byte
	if p.names() {
		size = udpSize
	} else {
		size = tcpSize
	}
	if p.six() {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, size, p.protocol, 64)
		frame = append(frame, addresses...)
		pseudo = append(pseudo, 0, 0, 0, size, 0, 0, 0, p.protocol)
	} else {
		header := append([]byte{0x45, 0, 0, ipv4Size + size, 0, 1, 0x40, 0, 64, p.protocol, 0, 0}, addresses...)
		binary.BigEndian.PutUint16(header[10:], checksum(header))
		frame = append(append(frame, 0x08, 0x00), header...)
		pseudo = append(pseudo, 0, p.protocol, 0, size)
	}
	segment, sum := p.segment(size)
	binary.BigEndian.PutUint16(segment[sum:], checksum(append(pseudo, segment...)))
	return append(frame, segment...)
}

// segment is a TCP segment that begins a connection (RFC 9293), or a datagram without a payload (RFC 768), and the offset of its checksum.
func (p probe) segment(size byte) (segment []byte, sum int) {
	segment = make([]byte, size)
	binary.BigEndian.PutUint16(segment[0:], trialPort)
	binary.BigEndian.PutUint16(segment[2:], p.port)
	if p.names() {
		segment[5] = size
		return segment, 6
	}
	segment[12], segment[13] = size/4<<4, 0x02 // its length, and SYN
	binary.BigEndian.PutUint16(segment[14:], 64240)
	return segment, 16
}

// checksum is the Internet's (RFC 1071) of an even number of bytes.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
