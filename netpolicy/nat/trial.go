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

// A trial sends the first packet of a connection from a link that looks like a phone's, to an address that routers lead to the uplink,
// and sees what becomes of it: all rules of the host are asked, whoever made them. It ends before the packet would leave, in a table of
// its own.
//
// Its link is a veth pair whose two ends are on the host, so that no namespace is needed: what is written to the one end arrives at the
// other. A crash in between leaves the pair and the table, which the next trial replaces; neither lets anything through.

// trialTable is the table of a trial, and trialPort the packet's destination.
const (
	trialTable = "phonehost-trial"
	trialPort  = 443
)

// trialTo are addresses that nobody has (RFC 5737, RFC 3849).
var trialTo = map[byte]netip.Addr{
	unix.NFPROTO_IPV4: netip.MustParseAddr("203.0.113.1"),
	unix.NFPROTO_IPV6: netip.MustParseAddr("2001:db8:7068::1"),
}

// trialWait is how long the kernel may take over a packet that nobody reports to have dropped.
const trialWait = 500 * time.Millisecond

// trial is one such link.
type trial struct {
	link, far netlink.Link
}

// outcome is what became of a packet.
type outcome struct {
	passed bool
	drop   step // if dropped by nftables
	// seen tells that the packet reached the rules at all.
	seen, dropped bool
}

// newTrial makes the link and the table that ends the packets from the addresses.
func (n *NAT) newTrial(from map[byte]netip.Addr) (_ *trial, err error) {
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
			err = errors.Join(err, t.remove(pair))
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
	for family, address := range from {
		if err := t.open(family, address); err != nil {
			return nil, err
		}
	}
	for _, link := range []netlink.Link{t.far, t.link} {
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("bring link %s of a trial up: %w", link.Attrs().Name, err)
		}
	}
	for _, address := range from {
		bits := address.BitLen()
		route := &netlink.Route{LinkIndex: t.link.Attrs().Index, Dst: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(bits, bits)}, Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(route); err != nil {
			return nil, fmt.Errorf("route %s to the link of a trial: %w", address, err)
		}
	}
	return t, tableOfTrial(near, from)
}

// open lets the link's packets of a family be forwarded.
func (t *trial) open(family byte, address netip.Addr) error {
	path := "/proc/sys/net/ipv4/conf"
	if family == unix.NFPROTO_IPV6 {
		path = "/proc/sys/net/ipv6/conf"
	}
	if err := os.WriteFile(filepath.Join(path, t.link.Attrs().Name, "forwarding"), []byte("1"), 0); err != nil {
		return fmt.Errorf("let packets of %s be forwarded: %w", address, err)
	}
	return nil
}

// tableOfTrial replaces the table of a trial: it traces what comes from the link and drops it once nothing but translation is to come.
func tableOfTrial(link string, from map[byte]netip.Addr) error {
	conn, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseLasting() }()
	table := &nftables.Table{Name: trialTable, Family: nftables.TableFamilyINet}
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)
	first, last := *nftables.ChainPriorityRaw-2*before, *nftables.ChainPriorityNATSource-2*before
	begin := conn.AddChain(&nftables.Chain{Name: "begin", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: &first})
	end := conn.AddChain(&nftables.Chain{Name: "end", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting, Priority: &last})
	name := append([]byte(link), 0)
	conn.AddRule(&nftables.Rule{Table: table, Chain: begin, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: append(name, make([]byte, unix.IFNAMSIZ-len(name))...)},
		&expr.Immediate{Register: reg1, Data: []byte{1}},
		&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: reg1},
	}})
	for number, address := range from {
		f := ipv4
		if number == unix.NFPROTO_IPV6 {
			f = ipv6
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: end, Exprs: join(f.is(), f.in(f.loadSource(), netip.PrefixFrom(address, address.BitLen())),
			f.in(f.loadDestination(), netip.PrefixFrom(trialTo[number], address.BitLen())), verdict(expr.VerdictDrop))})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("make table inet %s: %w", trialTable, err)
	}
	return nil
}

// remove takes the link and the table away.
func (t *trial) remove(link netlink.Link) error {
	conn, err := open()
	if err == nil {
		table := &nftables.Table{Name: trialTable, Family: nftables.TableFamilyINet}
		conn.AddTable(table) // so that it is there to be deleted
		conn.DelTable(table)
		err = errors.Join(conn.Flush(), conn.CloseLasting())
	}
	if err != nil {
		err = fmt.Errorf("delete table inet %s: %w", trialTable, err)
	}
	if delErr := netlink.LinkDel(link); delErr != nil {
		err = errors.Join(err, fmt.Errorf("remove the link of a trial: %w", delErr))
	}
	return err
}

// send sends the first packet of a connection from an address and tells what became of it.
func (t *trial) send(ctx context.Context, family byte, from netip.Addr) (outcome, error) {
	tracer, err := newTracer(t.link.Attrs().Index)
	if err != nil {
		return outcome{}, err
	}
	defer tracer.close()
	if err := t.write(synchronise(family, t.link.Attrs().HardwareAddr, t.far.Attrs().HardwareAddr, from, trialTo[family])); err != nil {
		return outcome{}, err
	}
	var o outcome
	err = tracer.until(ctx, time.Now().Add(trialWait), func(s step) bool {
		o.seen = true
		if !s.dropped {
			return false
		}
		o.passed = s.table == trialTable
		o.dropped, o.drop = !o.passed, s
		return true
	})
	return o, err
}

// write puts a frame on the wire at the far end.
func (t *trial) write(frame []byte) error {
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket of packets: %w", err)
	}
	defer unix.Close(s)
	if err := unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: t.far.Attrs().Index}); err != nil {
		return fmt.Errorf("send a packet on the link of a trial: %w", err)
	}
	return nil
}

// synchronise is a frame with a TCP segment that begins a connection (RFC 9293), to port trialPort.
func synchronise(family byte, to, by net.HardwareAddr, source, destination netip.Addr) []byte {
	const tcpSize = 20
	frame := append(append([]byte{}, to...), by...)
	pseudo := append(source.AsSlice(), destination.AsSlice()...) // the part of the checksum that is not of the segment
	if family == unix.NFPROTO_IPV4 {
		header := []byte{0x45, 0, 0, 20 + tcpSize, 0, 1, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}
		header = append(header, pseudo...)
		binary.BigEndian.PutUint16(header[10:], checksum(header))
		frame = append(append(frame, 0x08, 0x00), header...)
		pseudo = append(pseudo, 0, unix.IPPROTO_TCP, 0, tcpSize)
	} else {
		frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, tcpSize, unix.IPPROTO_TCP, 64)
		frame = append(frame, pseudo...)
		pseudo = append(pseudo, 0, 0, 0, tcpSize, 0, 0, 0, unix.IPPROTO_TCP)
	}
	segment := make([]byte, tcpSize)
	binary.BigEndian.PutUint16(segment[0:], 40443)
	binary.BigEndian.PutUint16(segment[2:], trialPort)
	segment[12], segment[13] = tcpSize/4<<4, 0x02 // its length, and SYN
	binary.BigEndian.PutUint16(segment[14:], 64240)
	binary.BigEndian.PutUint16(segment[16:], checksum(append(pseudo, segment...)))
	return append(frame, segment...)
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
