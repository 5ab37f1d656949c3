package nat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// before is how far our chains are in front of the usual priorities.
const before = 5

// chainSpec is one chain and where it hooks in.
type chainSpec struct {
	name     string
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	kind     nftables.ChainType
	rules    func(*builder) [][]expr.Any
}

// chains is every chain of the table; the package's comment has what each is for.
var chains = []chainSpec{
	{"guard", nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw - before, nftables.ChainTypeFilter, (*builder).guard},
	{"begun", nftables.ChainHookPrerouting, *nftables.ChainPriorityMangle, nftables.ChainTypeFilter, (*builder).begun},
	{"reached", nftables.ChainHookPostrouting, *nftables.ChainPriorityMangle, nftables.ChainTypeFilter, (*builder).reached},
	{"incoming", nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest - before, nftables.ChainTypeNAT, (*builder).incoming},
	{"own", nftables.ChainHookOutput, *nftables.ChainPriorityNATDest - before, nftables.ChainTypeNAT, (*builder).own},
	{"source", nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource - before, nftables.ChainTypeNAT, (*builder).source},
}

func (s chainSpec) equal(c *nftables.Chain) bool {
	return s.name == c.Name && c.Hooknum != nil && *s.hook == *c.Hooknum && c.Priority != nil && s.priority == *c.Priority && s.kind == c.Type
}

// sendBuffer is room for a transaction in bytes: some 10 000 forwards.
const sendBuffer = 8 << 20

// answers is how long the kernel may take for all that is asked over one connection, where the caller does not say. It is idle for most of it, if at
// all: the first transaction after a boot waits for some twenty modules, each of which a process of its own loads, and a slow machine that has other
// things to do takes more than 10 s over them.
const answers = time.Minute

// open opens a connection to nftables, which the caller closes. What is asked over it ends with the deadline of ctx at the latest.
func open(ctx context.Context) (*nftables.Conn, error) {
	deadline := time.Now().Add(answers)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(sendBuffer), c.SetReadBuffer(sendBuffer), c.SetDeadline(deadline))
	}))
	if err != nil {
		return nil, fmt.Errorf("open a connection to nftables: %w", err)
	}
	return conn, nil
}

// present is what there is of the table.
type present struct {
	chains []*nftables.Chain
	stale  []*nftables.Set              // maps that are none of ours
	maps   map[string]map[string]string // elements of those that are, by name
}

// read reads what there is of the table.
func read(conn *nftables.Conn) (present, error) {
	p := present{maps: map[string]map[string]string{}}
	all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return p, fmt.Errorf("list the chains of nftables: %w", err)
	}
	for _, c := range all {
		if c.Table.Name == Table {
			p.chains = append(p.chains, c)
		}
	}
	if len(p.chains) == 0 {
		return p, nil
	}
	sets, err := conn.GetSets(&nftables.Table{Name: Table, Family: nftables.TableFamilyINet})
	if err != nil {
		return p, fmt.Errorf("list the maps of table inet %s: %w", Table, err)
	}
	for _, s := range sets {
		if !s.IsMap || s.Anonymous {
			continue
		}
		if !slices.ContainsFunc(forwardMaps, func(m mapSpec) bool { return m.equal(s) }) {
			p.stale = append(p.stale, s)
			continue
		}
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return p, fmt.Errorf("list the elements of map %s: %w", s.Name, err)
		}
		p.maps[s.Name] = make(map[string]string, len(elements))
		for _, e := range elements {
			p.maps[s.Name][string(e.Key)] = string(e.Val)
		}
	}
	return p, nil
}

// builder writes one transaction.
type builder struct {
	*NAT
	conn    *nftables.Conn
	support Support
	table   *nftables.Table
	maps    map[string]*nftables.Set
}

func (b *builder) build(old present, forwards []Forward) error {
	b.conn.AddTable(b.table)
	b.clear(old)
	if b.support.Timeouts {
		b.addTimes()
	}
	if b.support.Count {
		if err := b.addCounts(); err != nil {
			return err
		}
	}
	if err := b.addForwards(old, forwards); err != nil {
		return err
	}
	accept := nftables.ChainPolicyAccept
	for _, spec := range chains {
		priority := spec.priority
		chain := b.conn.AddChain(&nftables.Chain{Name: spec.name, Table: b.table, Hooknum: spec.hook, Priority: &priority, Type: spec.kind, Policy: &accept})
		for _, rule := range spec.rules(b) {
			b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: chain, Exprs: rule})
		}
	}
	return nil
}

// clear empties the chains of before, and deletes chains and maps that are ours no more.
func (b *builder) clear(old present) {
	for _, c := range old.chains {
		c.Table = b.table
		b.conn.FlushChain(c)
	}
	for _, c := range old.chains {
		if !slices.ContainsFunc(chains, func(s chainSpec) bool { return s.equal(c) }) {
			b.conn.DelChain(c)
		}
	}
	for _, s := range old.stale {
		s.Table = b.table
		b.conn.DelSet(s)
	}
}

// times are the objects with times: protocol, name and, by conntrack's state, seconds.
type times struct {
	protocol byte
	name     string
	seconds  expr.CtStatePolicyTimeout
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }

func (t Timeouts) tcp() times {
	fresh, established, closing, closed := seconds(t.TCPNew), seconds(t.TCPEstablished), seconds(t.TCPClosing), seconds(t.TCPClosed)
	unanswered := min(300, established) // the kernel's own for segments that nobody acknowledges; it only shortens
	return times{unix.IPPROTO_TCP, fmt.Sprintf("tcp-%d-%d-%d-%d", fresh, established, closing, closed), expr.CtStatePolicyTimeout{
		expr.CtStateTCPSYNSENT: fresh, expr.CtStateTCPSYNSENT2: fresh, expr.CtStateTCPSYNRECV: fresh,
		expr.CtStateTCPESTABLISHED: established,
		expr.CtStateTCPFINWAIT:     closing, expr.CtStateTCPCLOSEWAIT: closing,
		expr.CtStateTCPLASTACK: closed, expr.CtStateTCPTIMEWAIT: closed, expr.CtStateTCPCLOSE: closed,
		expr.CtStateTCPRETRANS: unanswered, expr.CtStateTCPUNACK: unanswered,
	}}
}

func (t Timeouts) udp() times {
	fresh, established := seconds(t.UDPNew), seconds(t.UDPEstablished)
	return times{unix.IPPROTO_UDP, fmt.Sprintf("udp-%d-%d", fresh, established), expr.CtStatePolicyTimeout{
		expr.CtStateUDPUNREPLIED: fresh, expr.CtStateUDPREPLIED: established,
	}}
}

// timesMu guards expr's tables of default times: marshalling an object overwrites them, all of them with ours, which name every state.
var timesMu sync.Mutex

// addTimes adds the objects; one that is there already stays as it is, with the flows that have it.
func (b *builder) addTimes() {
	timesMu.Lock()
	defer timesMu.Unlock()
	for _, t := range []times{b.cfg.Timeouts.tcp(), b.cfg.Timeouts.udp()} {
		b.conn.AddObject(&nftables.NamedObj{Table: b.table, Name: t.name, Type: nftables.ObjTypeCtTimeout, Obj: &expr.CtTimeout{
			L3Proto: unix.NFPROTO_INET, L4Proto: t.protocol, Policy: t.seconds,
		}})
	}
}

// maxPhones bounds the sets that count, which get an element for each phone's address.
const maxPhones = 1 << 16

// addCounts adds the sets that count live flows by phone; one that is there already goes on counting.
func (b *builder) addCounts() error {
	for _, name := range []string{"begun", "reached"} {
		if err := b.addCount(name+"4", nftables.TypeIPAddr); err != nil {
			return err
		}
		if err := b.addCount(name+"6", nftables.TypeIP6Addr); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) addCount(name string, key nftables.SetDatatype) error {
	return b.conn.AddSet(&nftables.Set{Table: b.table, Name: name, KeyType: key, Dynamic: true, Size: maxPhones}, nil)
}

// mapSpec is one map of forwards.
type mapSpec struct {
	name     string
	key, val nftables.SetDatatype
}

func (m mapSpec) equal(s *nftables.Set) bool {
	return s.Name == m.name && s.KeyType.GetNFTMagic() == m.key.GetNFTMagic() && s.DataType.GetNFTMagic() == m.val.GetNFTMagic()
}

// forwardMaps are the maps of forwards: by address or for every one, of both families.
var forwardMaps = []mapSpec{
	{"forward4", nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService), target4},
	{"forward6", nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService), target6},
	{"every4", nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), target4},
	{"every6", nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), target6},
}

var (
	target4 = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	target6 = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetService)
)

// elementsAtOnce is how many elements go into one message, whose attributes have lengths of 16 bits.
const elementsAtOnce = 400

// addForwards makes the maps those of the forwards. Only elements that differ are touched: the chains of before may still run while
// the transaction takes effect, and would not find an element that is replaced by its equal, or one of a map that is.
func (b *builder) addForwards(old present, forwards []Forward) error {
	wanted := map[string]map[string]string{}
	for _, m := range forwardMaps {
		wanted[m.name] = map[string]string{}
	}
	for _, f := range forwards {
		name, key := forwardKey(f)
		wanted[name][string(key)] = string(append(f.Phone.AsSlice(), port(f.Port)...))
	}
	b.maps = map[string]*nftables.Set{}
	for _, m := range forwardMaps {
		set := &nftables.Set{Table: b.table, Name: m.name, IsMap: true, KeyType: m.key, DataType: m.val}
		b.maps[m.name] = set
		present, made := old.maps[m.name]
		if !made {
			if err := b.conn.AddSet(set, nil); err != nil {
				return err
			}
		}
		gone, fresh := difference(present, wanted[m.name])
		for some := range slices.Chunk(gone, elementsAtOnce) {
			if err := b.conn.SetDeleteElements(set, some); err != nil {
				return err
			}
		}
		for some := range slices.Chunk(fresh, elementsAtOnce) {
			if err := b.conn.SetAddElements(set, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// difference is what has to be deleted from and added to a map that has some elements so that it has others.
func difference(present, wanted map[string]string) (gone, fresh []nftables.SetElement) {
	for key, val := range present {
		if now, ok := wanted[key]; !ok || now != val {
			gone = append(gone, nftables.SetElement{Key: []byte(key)})
		}
	}
	for key, val := range wanted {
		if was, ok := present[key]; !ok || was != val {
			fresh = append(fresh, nftables.SetElement{Key: []byte(key), Val: []byte(val)})
		}
	}
	return gone, fresh
}

// forwardKey is the map that a forward is in and its key there: each part in 4 bytes or a multiple of it.
func forwardKey(f Forward) (name string, key []byte) {
	number := byte(unix.IPPROTO_TCP)
	if f.Protocol == policy.UDP {
		number = unix.IPPROTO_UDP
	}
	name = "forward"
	if f.Listen.Addr().IsUnspecified() {
		name = "every"
	} else {
		key = f.Listen.Addr().AsSlice()
	}
	key = append(key, number, 0, 0, 0)
	key = append(key, port(f.Listen.Port())...)
	if f.Listen.Addr().Is4() {
		return name + "4", key
	}
	return name + "6", key
}

// port is a port in network order, in 4 bytes.
func port(p uint16) []byte {
	return append(binary.BigEndian.AppendUint16(nil, p), 0, 0)
}

// The addresses of loopback.
var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.PrefixFrom(netip.IPv6Loopback(), 128)
)
