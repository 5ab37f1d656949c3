package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// What the phone of the tests is in. Loopback is the link of what is run without a context.
const (
	labLink   = 1
	labSlot   = 3
	labPolicy = 5
)

// What the programs return: TC_ACT_SHOT, TC_ACT_UNSPEC for "go on", and TC_ACT_REDIRECT for what goes back over the link.
const (
	dropped  = 2
	passed   = 0xffffffff
	answered = 7
)

// lab is the programs in the kernel, with maps of their own and one phone. Nothing is attached; packets are run by BPF_PROG_TEST_RUN.
type lab struct {
	t testing.TB
	bpfObjects
	specs          map[string]*ebpf.MapSpec
	flows, denials *ebpf.Map
	settings       bpfSettings
	generation     uint64
}

// newLab loads the programs and gives the phone a policy.
func newLab(t testing.TB, text string) *lab {
	t.Helper()
	testenv.Root(t)
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, specs: spec.Maps}
	if err := spec.LoadAndAssign(&l.bpfObjects, nil); err != nil {
		var refused *ebpf.VerifierError
		if errors.As(err, &refused) {
			t.Logf("%-30v", refused)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	l.settings = bpfSettings{
		TcpNew: sec(20), TcpEstablished: sec(7440), TcpClosing: sec(60), TcpClosed: sec(10), UdpNew: sec(30), UdpEstablished: sec(180), Icmp: sec(30), Fragment: sec(5),
	}
	l.put(l.Settings, uint32(0), l.settings)
	l.phone(func(*bpfPhone) {})
	l.limit(4096)
	l.denials = l.inner(l.Denials, l.specs["denials"].InnerMap, labSlot)
	l.object(l.Protected, 0, policy.CompileAddresses(labProtected))
	l.policy(text)
	return l
}

func sec(n uint64) uint64 { return n * uint64(time.Second) }

// labProtected is what the phone may reach only if its policy says so.
var labProtected = []policy.AddressClass{
	{Prefix: netip.MustParsePrefix("10.213.0.0/16"), Class: uint8(bpfProtectedClassPROTECTED_PHONE)},
	{Prefix: netip.MustParsePrefix("fd70:686f:6e65::/64"), Class: uint8(bpfProtectedClassPROTECTED_PHONE)},
	{Prefix: netip.MustParsePrefix("192.168.7.0/24"), Class: uint8(bpfProtectedClassPROTECTED_NETWORK)},
	{Prefix: netip.MustParsePrefix("192.168.7.1/32"), Class: uint8(bpfProtectedClassPROTECTED_HOST)},
	{Prefix: netip.MustParsePrefix("169.254.0.0/16"), Class: uint8(bpfProtectedClassPROTECTED_LINK_LOCAL)},
	{Prefix: netip.MustParsePrefix("169.254.169.254/32"), Class: uint8(bpfProtectedClassPROTECTED_METADATA)},
	{Prefix: netip.MustParsePrefix("fe80::/10"), Class: uint8(bpfProtectedClassPROTECTED_LINK_LOCAL)},
	{Prefix: netip.MustParsePrefix("fd00:ec2::254/128"), Class: uint8(bpfProtectedClassPROTECTED_METADATA)},
	{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Class: uint8(bpfProtectedClassPROTECTED_PRIVATE)},
	{Prefix: netip.MustParsePrefix("192.168.0.0/16"), Class: uint8(bpfProtectedClassPROTECTED_PRIVATE)},
	{Prefix: netip.MustParsePrefix("fc00::/7"), Class: uint8(bpfProtectedClassPROTECTED_PRIVATE)},
	{Prefix: netip.MustParsePrefix("127.0.0.0/8"), Class: uint8(bpfProtectedClassPROTECTED_RESERVED)},
	{Prefix: netip.MustParsePrefix("0.0.0.0/8"), Class: uint8(bpfProtectedClassPROTECTED_RESERVED)},
	{Prefix: netip.MustParsePrefix("240.0.0.0/4"), Class: uint8(bpfProtectedClassPROTECTED_RESERVED)},
	{Prefix: netip.MustParsePrefix("::/128"), Class: uint8(bpfProtectedClassPROTECTED_RESERVED)},
	{Prefix: netip.MustParsePrefix("::1/128"), Class: uint8(bpfProtectedClassPROTECTED_RESERVED)},
}

func (l *lab) put(m *ebpf.Map, key, value any) {
	l.t.Helper()
	if err := m.Put(key, value); err != nil {
		l.t.Fatalf("%v: %v", m, err)
	}
}

// inner puts a new map into one of maps and returns it.
func (l *lab) inner(outer *ebpf.Map, spec *ebpf.MapSpec, index uint32) *ebpf.Map {
	l.t.Helper()
	m, err := ebpf.NewMap(spec)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { m.Close() })
	l.put(outer, index, m)
	return m
}

// object puts an object of cells into a map of maps.
func (l *lab) object(outer *ebpf.Map, index uint32, cells []policy.Cell) {
	l.t.Helper()
	spec := l.specs["policies"].InnerMap.Copy()
	spec.MaxEntries = uint32(len(cells))
	m := l.inner(outer, spec, index)
	for i, cell := range cells {
		l.put(m, uint32(i), cell)
	}
}

// policy gives the phone another policy, of a generation of its own; "" takes it away.
func (l *lab) policy(text string) {
	l.t.Helper()
	if text == "" {
		if err := l.Policies.Delete(uint32(labPolicy)); err != nil {
			l.t.Fatal(err)
		}
		return
	}
	p, err := policy.Parse([]byte(text))
	if err != nil {
		l.t.Fatal(err)
	}
	l.compile(p)
}

func (l *lab) compile(p policy.Policy) {
	l.t.Helper()
	l.generation++
	o, err := policy.Compile(p, l.generation)
	if err != nil {
		l.t.Fatal(err)
	}
	l.object(l.Policies, labPolicy, o.Cells)
}

// phone writes the phone anew, as change has it.
func (l *lab) phone(change func(*bpfPhone)) {
	l.t.Helper()
	p := bpfPhone{Slot: labSlot, Policy: labPolicy, Prefix4: 16, Ip4: key16(phone4), Ip6: key16(phone6), Gateway4: key16(gateway4), Gateway6: key16(gateway6)}
	copy(p.Mac[:], mac48(phoneMAC))
	copy(p.GatewayMac[:], mac48(gatewayMAC))
	change(&p)
	l.put(l.Phones, uint32(labLink), p)
}

// limit gives the phone an empty table of flows with room for so many.
func (l *lab) limit(n uint32) {
	l.t.Helper()
	spec := l.specs["flows"].InnerMap.Copy()
	spec.MaxEntries = n
	l.flows = l.inner(l.Flows, spec, labSlot)
}

// lease opens an address for the phone by names, until a time from now.
func (l *lab) lease(peer string, lives time.Duration, patterns ...string) {
	l.t.Helper()
	var v bpfNameValue
	for i, p := range patterns {
		v.Lease[i] = bpfNameLease{Id: policy.NameID(p), Until: uint64(kernelTime() + int64(lives))}
	}
	l.put(l.Names, bpfNameKey{Slot: labSlot, Address: key16(peer)}, v)
}

// kernelTime is CLOCK_MONOTONIC.
func kernelTime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// key16 is an address as the maps have it.
func key16(text string) [16]byte { return netip.MustParseAddr(text).As16() }

// skbContext is struct __sk_buff, as far as it is used.
type skbContext struct {
	_       [2]uint32 // len, pkt_type
	Mark    uint32
	_       [6]uint32 // queue_mapping...priority
	Ingress uint32    // ingress_ifindex
	Ifindex uint32
	_       uint32 // tc_index
	CB      [5]uint32
	_       [2]uint32 // hash, tc_classid
	Data    uint32
	DataEnd uint32
	_       [20]uint32 // napi_id...wire_len
	GSOSegs uint32
	_       [2]uint32 // sk
	GSOSize uint32
	_       [3]uint32
}

// judge asks what would happen to a frame.
func (l *lab) judge(d policy.Direction, frame []byte) bpfVerdict {
	l.t.Helper()
	var after skbContext
	got, err := l.Judge.Run(&ebpf.RunOptions{Data: frame, Context: skbContext{Mark: uint32(d)}, ContextOut: &after})
	if err != nil {
		l.t.Fatal(err)
	}
	cb := after.CB
	v := bpfVerdict{
		Reason: uint8(cb[0]), Class: uint8(cb[0] >> 8), Bits: uint8(cb[0] >> 16), Begins: uint8(cb[0] >> 24), Rule: cb[1], Name: [2]uint32{cb[2], cb[3]}, Generation: cb[4],
	}
	if (v.Reason == 0) != (got == passed) {
		l.t.Errorf("judge returns %#x with reason %d", got, v.Reason)
	}
	return v
}

// send runs a frame through the program of its direction. It returns why it was dropped, 0 for a frame that passed, after it has seen to
// it that judge said so before and that exactly the counters and denials that the reason asks for have changed.
func (l *lab) send(d policy.Direction, frame []byte) bpfReason {
	l.t.Helper()
	flows, before, listed := l.countFlows(), l.counters(), l.listed()
	verdict := l.judge(d, frame)
	if n := l.countFlows(); n != flows || l.counters() != before || l.listed() != listed {
		l.t.Errorf("judge has changed something")
	}
	program := l.FromPhone
	if d == policy.Ingress {
		program = l.ToPhone
	}
	arp := len(frame) > 13 && frame[12] == 8 && frame[13] == 6
	got, err := program.Run(&ebpf.RunOptions{Data: frame})
	if err != nil {
		l.t.Fatal(err)
	}
	after := l.counters()
	reason := bpfReason(0)
	for i := range after.Dropped {
		if after.Dropped[i] != before.Dropped[i] {
			reason = bpfReason(i)
		}
	}
	want := before
	switch {
	case got == dropped && reason != 0:
		want.Dropped[reason]++
		quiet := reason == bpfReasonREASON_MULTICAST || (reason == bpfReasonREASON_NEIGHBOUR && !(arp && d == policy.Egress))
		if !quiet {
			listed++
		}
	case got == passed, got == answered && d == policy.Egress:
		want.Packets[d]++
		want.Bytes[d] += uint64(len(frame))
	default:
		l.t.Fatalf("the program returns %#x and counts reason %d", got, reason)
	}
	if after != want {
		l.t.Errorf("counters are %v; want %v", after, want)
	}
	if n := l.listed(); n != listed {
		l.t.Errorf("%d packets are in the list of denials; want %d (reason %d)", n, listed, reason)
	}
	if bpfReason(verdict.Reason) != reason && reason != bpfReasonREASON_FLOW_LIMIT {
		l.t.Errorf("judge says %s, what happened is %s", reasonName(bpfReason(verdict.Reason)), reasonName(reason))
	}
	return reason
}

// counters are the phone's, of all processors.
func (l *lab) counters() (sum bpfCounters) {
	l.t.Helper()
	var each []bpfCounters
	if err := l.Counters.Lookup(uint32(labSlot), &each); err != nil {
		l.t.Fatal(err)
	}
	for _, c := range each {
		for d := range 2 {
			sum.Packets[d] += c.Packets[d]
			sum.Bytes[d] += c.Bytes[d]
		}
		for i := range c.Dropped {
			sum.Dropped[i] += c.Dropped[i]
		}
		sum.Unlisted += c.Unlisted
		sum.Lost += c.Lost
	}
	return sum
}

// pairs reads a map.
func pairs[K comparable, V any](t testing.TB, m *ebpf.Map) map[K]V {
	t.Helper()
	all := map[K]V{}
	var k K
	var v V
	i := m.Iterate()
	for i.Next(&k, &v) {
		all[k] = v
	}
	if err := i.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func (l *lab) countFlows() int { return len(pairs[bpfFlowKey, bpfFlow](l.t, l.flows)) }

// listed is how many packets the denials tell of.
func (l *lab) listed() (n uint64) {
	for _, d := range pairs[bpfDenialKey, bpfDenial](l.t, l.denials) {
		n += d.Count
	}
	return n
}

// flow returns the only flow that there is.
func (l *lab) flow() (bpfFlowKey, bpfFlow) {
	l.t.Helper()
	all := pairs[bpfFlowKey, bpfFlow](l.t, l.flows)
	if len(all) != 1 {
		l.t.Fatalf("there are %d flows; want one", len(all))
	}
	for k, v := range all {
		return k, v
	}
	panic("unreachable")
}

// age makes all flows older, as if time had passed; on a machine that has just started as well.
func (l *lab) age(by time.Duration) {
	l.t.Helper()
	for k, v := range pairs[bpfFlowKey, bpfFlow](l.t, l.flows) {
		v.Started = uint64(max(1, int64(v.Started)-int64(by)))
		v.Expires = uint64(max(1, int64(v.Expires)-int64(by)))
		l.put(l.flows, k, v)
	}
}

var reasonNames = map[bpfReason]string{
	0: "pass", 1: "NO_PHONE", 2: "NO_POLICY", 3: "CUT", 4: "NOT_IP", 5: "VLAN", 6: "MALFORMED", 7: "IP_OPTIONS", 8: "IP6_EXTENSION", 9: "FRAGMENT",
	10: "SPOOFED_MAC", 11: "SPOOFED_IP", 12: "NEIGHBOUR", 13: "PROTOCOL", 14: "MULTICAST", 15: "PROTECTED", 16: "RULE", 17: "DEFAULT", 18: "NO_FLOW",
	19: "FLOW_LIMIT", 20: "NAME_SERVER",
}

func reasonName(r bpfReason) string {
	if n, ok := reasonNames[r]; ok {
		return n
	}
	return fmt.Sprint("reason ", uint32(r))
}

// packetCase is one crafted frame and what must become of it: the name of a reason, or "pass".
type packetCase struct {
	name  string
	frame []byte
	want  string
}

// table runs frames in a direction, each without flows of those before.
func (l *lab) table(t *testing.T, d policy.Direction, cases []packetCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := *l
			l.t = t
			l.limit(4096)
			if got := reasonName(l.send(d, c.frame)); got != c.want {
				t.Errorf("%s; want %s", got, c.want)
			}
			if n := l.countFlows(); c.want != "pass" && n != 0 {
				t.Errorf("%d flows of a packet that was dropped", n)
			}
		})
	}
}

// step is one of several frames of a story.
type step struct {
	name  string
	d     policy.Direction
	frame []byte
	want  string
}

// run sends frames one after another.
func (l *lab) run(steps []step) {
	l.t.Helper()
	for _, s := range steps {
		if got := reasonName(l.send(s.d, s.frame)); got != s.want {
			l.t.Errorf("%s: %s; want %s", s.name, got, s.want)
		}
	}
}
