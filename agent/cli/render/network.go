package render

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// Bits writes a bandwidth as phonectl reads it: "10Mbit", "1.5Gbit", "unlimited" for 0.
func Bits(n uint64) string {
	if n == 0 {
		return "unlimited"
	}
	units := []string{"bit", "kbit", "Mbit", "Gbit"}
	value, unit := float64(n), 0
	for value >= 1000 && unit < len(units)-1 {
		value /= 1000
		unit++
	}
	return strconv.FormatFloat(value, 'f', -1, 64) + units[unit]
}

// Policies writes network policies, a row each.
func Policies(w io.Writer, policies []*phonehostv1.NetworkPolicy, now time.Time) error {
	t := NewTable("NAME", "DEFAULT", "RULES", "PHONES", "PUT", "BY", "NOTE")
	for _, p := range policies {
		note := p.GetProblem()
		if p.GetUpdateTime() == nil && note == "" {
			note = "built in"
		}
		t.Row(p.GetName(), p.GetDefault(), strconv.Itoa(int(p.GetRules())), strconv.Itoa(int(p.GetPhones())), Ago(p.GetUpdateTime(), now), p.GetUpdatedBy(), note)
	}
	return t.Write(w)
}

// PolicyLine describes a network policy in a line.
func PolicyLine(p *phonehostv1.NetworkPolicy) string {
	return Printable(fmt.Sprintf("%s: %s, default %s; %s", p.GetName(), count(uint64(p.GetRules()), "rule"), p.GetDefault(), haveIt(p.GetPhones())))
}

func haveIt(phones uint32) string {
	switch phones {
	case 0:
		return "no phone has it"
	case 1:
		return "1 phone has it"
	}
	return fmt.Sprintf("%d phones have it", phones)
}

// count writes a number of things: "1 rule", "2 rules".
func count(n uint64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.FormatUint(n, 10) + " " + thing + "s"
}

// PolicyText is a network policy with its text. It is printed as JSON by these names.
type PolicyText struct {
	Name       string `json:"name"`
	Default    string `json:"default"`
	Rules      uint32 `json:"rules"`
	Phones     uint32 `json:"phones"`
	UpdateTime string `json:"updateTime"`
	UpdatedBy  string `json:"updatedBy"`
	SHA256     string `json:"sha256"`
	Text       string `json:"text"`
}

// NewPolicyText joins a policy and its text.
func NewPolicyText(p *phonehostv1.NetworkPolicy, text string) PolicyText {
	t := PolicyText{
		Name: p.GetName(), Default: p.GetDefault(), Rules: p.GetRules(), Phones: p.GetPhones(), UpdatedBy: p.GetUpdatedBy(), SHA256: hex.EncodeToString(p.GetSha256()),
		Text: text,
	}
	if p.GetUpdateTime() != nil {
		t.UpdateTime = p.GetUpdateTime().AsTime().Format(time.RFC3339Nano)
	}
	return t
}

// Network writes what there is of a phone's network.
func Network(w io.Writer, n *phonehostv1.PhoneNetwork) error {
	var f fields
	spec, state, c := n.GetSpec(), n.GetState(), n.GetCounters()
	f.add("id", n.GetPhoneId())
	f.add("link", linkState(n))
	f.add("problem", state.GetProblem())
	if state.GetCut() {
		f.add("cut off", fmt.Sprintf("yes: `phonectl net restore %s`", n.GetPhoneId()))
	}
	f.add("ipv4", withGateway(state.GetIpv4(), n.GetIpv4Gateway()))
	f.add("ipv6", withGateway(state.GetIpv6(), n.GetIpv6Gateway()))
	f.add("policy", spec.GetPolicy())
	f.add("up", Bits(spec.GetUpBitsPerSecond()))
	f.add("down", Bits(spec.GetDownBitsPerSecond()))
	for _, forward := range spec.GetForwards() {
		f.add("forward", Forward(forward))
	}
	if n.GetUp() {
		f.add("flows", fmt.Sprintf("%d of %d", n.GetFlows(), n.GetMaxFlows()))
		f.add("sent", fmt.Sprintf("%s, %s", count(c.GetSentPackets(), "packet"), Bytes(c.GetSentBytes())))
		f.add("received", fmt.Sprintf("%s, %s", count(c.GetReceivedPackets(), "packet"), Bytes(c.GetReceivedBytes())))
	}
	for _, d := range c.GetDropped() {
		f.add("dropped", fmt.Sprintf("%s: %s", DenialReason(d.GetReason()), count(d.GetPackets(), "packet")))
	}
	return f.write(w)
}

// linkState says what there is of a link.
func linkState(n *phonehostv1.PhoneNetwork) string {
	switch {
	case n.GetInterface() == "":
		return "none yet: it is made when the phone is started"
	case !n.GetUp():
		return n.GetInterface() + ", down"
	case !n.GetState().GetInForce():
		return fmt.Sprintf("%s, MTU %d, not yet as it should be", n.GetInterface(), n.GetMtu())
	}
	return fmt.Sprintf("%s, MTU %d", n.GetInterface(), n.GetMtu())
}

func withGateway(address, gateway string) string {
	if address == "" {
		return ""
	}
	return address + ", gateway " + gateway
}

// networkLine describes a phone's network in a line; empty where it has none.
func networkLine(p *phonehostv1.Phone) string {
	state, spec := p.GetNetwork(), p.GetSpec().GetNetwork()
	if state == nil {
		return ""
	}
	parts := []string{state.GetIpv4()}
	if state.GetIpv6() != "" {
		parts = append(parts, state.GetIpv6())
	}
	parts = append(parts, "policy "+spec.GetPolicy())
	if spec.GetUpBitsPerSecond() != 0 {
		parts = append(parts, "up "+Bits(spec.GetUpBitsPerSecond()))
	}
	if spec.GetDownBitsPerSecond() != 0 {
		parts = append(parts, "down "+Bits(spec.GetDownBitsPerSecond()))
	}
	if state.GetCut() {
		parts = append(parts, "cut off")
	}
	if state.GetProblem() != "" {
		parts = append(parts, state.GetProblem())
	}
	return strings.Join(parts, ", ")
}

// Forward describes a forward: "127.0.0.1:6001 leads to port 5555, tcp".
func Forward(f *phonehostv1.Forward) string {
	return Printable(fmt.Sprintf("%s leads to port %d, %s", f.GetListen(), f.GetPort(), protocol(f.GetProtocol())))
}

// Forwards writes forwards of phones, a row each.
func Forwards(w io.Writer, forwards []*phonehostv1.PhoneForward) error {
	t := NewTable("PHONE", "LISTEN", "PROTOCOL", "PORT")
	for _, f := range forwards {
		t.Row(f.GetPhoneId(), f.GetForward().GetListen(), protocol(f.GetForward().GetProtocol()), strconv.Itoa(int(f.GetForward().GetPort())))
	}
	return t.Write(w)
}

func protocol(p phonehostv1.NetworkProtocol) string {
	return strings.ToLower(word(p.String(), "NETWORK_PROTOCOL_"))
}

// DenialReason writes why packets were dropped: "rule".
func DenialReason(r phonehostv1.DenialReason) string {
	return hyphened(word(r.String(), "DENIAL_REASON_"))
}

func direction(d phonehostv1.FlowDirection) string {
	return hyphened(word(d.String(), "FLOW_DIRECTION_"))
}

// rule writes which rule decided, counted from 1 as the lines of a policy are.
func rule(n int32) string {
	switch n {
	case -1:
		return "default"
	case -2:
		return "gateway"
	case -3:
		return "forward"
	case -4:
		return ""
	}
	return strconv.Itoa(int(n) + 1)
}

// port writes a port; 0 is none.
func port(n uint32) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(int(n))
}

// Flows is the table of flows, which grows while it watches.
type Flows struct {
	table *Table
	now   func() time.Time
}

// NewFlows returns an empty table whose times are told relative to now.
func NewFlows(now func() time.Time) *Flows {
	return &Flows{now: now, table: NewTable("DIRECTION", "PROTOCOL", "PEER                 ", "PEER PORT", "PORT ", "STATE      ", "RULE   ", "SENT   ", "RECEIVED", "AGE", "IDLE")}
}

// Write writes the header and flows, those that were used last first.
func (t *Flows) Write(w io.Writer, flows []*phonehostv1.Flow) error {
	slices.SortStableFunc(flows, func(a, b *phonehostv1.Flow) int { return b.GetLastTime().AsTime().Compare(a.GetLastTime().AsTime()) })
	for _, f := range flows {
		t.table.Row(t.cells(f)...)
	}
	return t.table.Write(w)
}

// Append writes rows for flows that have begun or ended.
func (t *Flows) Append(w io.Writer, flows []*phonehostv1.Flow) error {
	for _, f := range flows {
		if err := t.table.Append(w, t.cells(f)...); err != nil {
			return err
		}
	}
	return nil
}

func (t *Flows) cells(f *phonehostv1.Flow) []string {
	return []string{
		direction(f.GetDirection()), protocol(f.GetProtocol()), f.GetPeer(), port(f.GetPeerPort()), port(f.GetPort()),
		hyphened(word(f.GetState().String(), "FLOW_STATE_")), rule(f.GetRule()), Bytes(f.GetSentBytes()), Bytes(f.GetReceivedBytes()),
		Since(f.GetStartTime(), t.now()), Since(f.GetLastTime(), t.now()),
	}
}

// Denials is the table of what was dropped, which grows as it comes.
type Denials struct {
	table   *Table
	started bool
}

// NewDenials returns an empty table.
func NewDenials() *Denials {
	return &Denials{table: NewTable("TIME               ", "PHONE       ", "DIRECTION", "PROTOCOL", "PEER                 ", "PORT ", "REASON     ", "CLASS  ", "RULE   ", "PACKETS")}
}

// Append writes the header once, and rows.
func (t *Denials) Append(w io.Writer, denials []*phonehostv1.Denial) error {
	if !t.started && len(denials) > 0 {
		t.started = true
		if err := t.table.Write(w); err != nil {
			return err
		}
	}
	for _, d := range denials {
		class := ""
		if d.GetProtectedClass() != 0 {
			class = hyphened(word(d.GetProtectedClass().String(), "PROTECTED_CLASS_"))
		}
		err := t.table.Append(w, d.GetLastTime().AsTime().UTC().Format(time.DateTime), d.GetPhoneId(), direction(d.GetDirection()), ipProtocol(d.GetProtocol()), cmp.Or(d.GetPeer(), d.GetName()),
			port(d.GetPort()), DenialReason(d.GetReason()), class, rule(d.GetRule()), strconv.FormatUint(d.GetPackets(), 10))
		if err != nil {
			return err
		}
	}
	return nil
}

// ipProtocols are the names of protocols of the IP header that phonectl knows.
var ipProtocols = map[uint32]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}

// ipProtocol writes a protocol of the IP header; 0 is none.
func ipProtocol(n uint32) string {
	if name, known := ipProtocols[n]; known {
		return name
	}
	return port(n)
}

// DenialsOf reads denials from events of the journal; ids limits it, none means all phones.
func DenialsOf(events []*phonehostv1.Event, ids []string) []*phonehostv1.Denial {
	var denials []*phonehostv1.Denial
	for _, e := range events {
		if e.GetKind() == phonehostv1.EventKind_EVENT_KIND_NETWORK_DENIED && (len(ids) == 0 || slices.Contains(ids, e.GetPhoneId())) {
			denials = append(denials, denialOf(e))
		}
	}
	return denials
}

func denialOf(e *phonehostv1.Event) *phonehostv1.Denial {
	at := e.GetAttributes()
	number := func(name string) uint64 {
		n, err := strconv.ParseUint(at[name], 10, 64)
		if err != nil {
			return 0 // it is absent, or of a newer agent
		}
		return n
	}
	d := &phonehostv1.Denial{
		PhoneId: e.GetPhoneId(), Name: at["name"], Peer: at["peer"], Port: uint32(number("port")), Packets: number("packets"), Bytes: number("bytes"), LastTime: e.GetTime(),
		Direction:      phonehostv1.FlowDirection(phonehostv1.FlowDirection_value["FLOW_DIRECTION_"+strings.ToUpper(at["direction"])]),
		Reason:         phonehostv1.DenialReason(phonehostv1.DenialReason_value["DENIAL_REASON_"+at["reason"]]),
		ProtectedClass: phonehostv1.ProtectedClass(phonehostv1.ProtectedClass_value["PROTECTED_CLASS_"+at["class"]]),
		Protocol:       uint32(number("protocol")),
	}
	for n, name := range map[uint32]string{1: "icmp", 6: "tcp", 17: "udp"} {
		if at["protocol"] == name {
			d.Protocol = n
		}
	}
	if n, err := strconv.ParseInt(at["rule"], 10, 32); err == nil {
		d.Rule = int32(n)
	}
	return d
}

// Verdict writes what would become of a connection.
func Verdict(w io.Writer, v *phonehostv1.TestConnectionResponse) error {
	verdict := "allowed"
	if !v.GetAllowed() {
		verdict = "dropped: " + DenialReason(v.GetReason())
		if c := v.GetProtectedClass(); c != 0 {
			verdict += " (" + hyphened(word(c.String(), "PROTECTED_CLASS_")) + ")"
		}
	}
	var f fields
	f.add("verdict", verdict)
	f.add("peer", v.GetPeer())
	f.add("policy", v.GetPolicy())
	f.add("rule", rule(v.GetRule()))
	f.add("why", v.GetText())
	return f.write(w)
}
