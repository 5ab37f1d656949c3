package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// The messages of DHCP (RFC 2132, section 9.6).
const (
	discover = 1
	offer    = 2
	request  = 3
	decline  = 4
	ackDHCP  = 5
	nak      = 6
	release  = 7
	inform   = 8
)

const (
	dhcpID    = 0x12345678
	everybody = "255.255.255.255"
	nobody    = "0.0.0.0"
)

// item is an option of DHCP.
func item(code byte, value ...byte) []byte { return append([]byte{code, byte(len(value))}, value...) }

// dhcp makes a message of the phone, with option 53 for a kind other than 0 and an end; edits are of what comes before the options.
func dhcp(kind byte, options []byte, edits ...edit) []byte {
	b := make([]byte, 240)
	b[0], b[1], b[2] = 1, 1, 6
	binary.BigEndian.PutUint32(b[4:], dhcpID)
	copy(b[28:], mac48(phoneMAC))
	binary.BigEndian.PutUint32(b[236:], 0x63825363)
	b = edited(b, edits)
	if kind != 0 {
		b = append(b, item(53, kind)...)
	}
	return append(append(b, options...), 255)
}

// ask is a message that the phone sends before it has an address, renew one that it sends when it has.
func ask(message []byte) []byte {
	return ethernet(phoneMAC, broadcastMAC, 0x800, ip(nobody, everybody, udp(68, 67, message)))
}
func renew(message []byte) []byte { return up(ip(phone4, gateway4, udp(68, 67, message))) }

// from puts the address that a client has into a message, wants what option 50 asks for, at the server that option 54 names.
func from(client string) edit          { return set(12, address(client)...) }
func wants(requested string) []byte    { return item(50, address(requested)...) }
func at(server string) []byte          { return item(54, address(server)...) }
func both(options ...[]byte) []byte    { return slices.Concat(options...) }
func padding(n int) []byte             { return make([]byte, n) }
func answersDHCP(p *bpfPhone)          { p.Flags |= uint32(bpfPhoneFlagPHONE_DHCP) }
func broadcastFlag(h []byte)           { set16(10, 0x8000)(h) }
func withoutEnd(message []byte) []byte { return message[:len(message)-1] }

func TestRequestsOfDHCP(t *testing.T) {
	l := newLab(t, "default allow-internet\n")
	l.phone(answersDHCP)
	l.table(t, policy.Egress, []packetCase{
		{"DISCOVER", ask(dhcp(discover, nil)), "pass"},
		{"DISCOVER with options", ask(dhcp(discover, both(item(12, []byte("android")...), item(57, 5, 220), item(55, 1, 3, 6, 15, 26, 28, 51, 58, 59)))), "pass"},
		{"DISCOVER with padding before its end", ask(dhcp(discover, padding(62))), "pass"},
		{"DISCOVER with padding behind its end", ask(append(dhcp(discover, nil), padding(60)...)), "pass"},
		{"DISCOVER of an address that it had", ask(dhcp(discover, wants(neighbour4))), "pass"},
		{"DISCOVER of a phone that has its address", ethernet(phoneMAC, broadcastMAC, 0x800, ip(phone4, everybody, udp(68, 67, dhcp(discover, nil)))), "pass"},
		{"REQUEST of what was offered", ask(dhcp(request, both(wants(phone4), at(gateway4)))), "pass"},
		{"REQUEST of what it had before", ask(dhcp(request, wants(phone4))), "pass"},
		{"REQUEST to stay", renew(dhcp(request, nil, from(phone4))), "pass"},
		{"REQUEST of another address", ask(dhcp(request, wants(neighbour4))), "pass"},
		{"INFORM", renew(dhcp(inform, nil, from(phone4))), "pass"},

		{"REQUEST of nothing", ask(dhcp(request, nil)), "MALFORMED"},
		{"REQUEST to another server", ask(dhcp(request, both(wants(phone4), at(neighbour4)))), "PROTECTED"},
		{"INFORM with another address", renew(dhcp(inform, nil, from(neighbour4))), "MALFORMED"},
		{"INFORM without an address", ask(dhcp(inform, nil)), "MALFORMED"},
		{"DECLINE", ask(dhcp(decline, both(wants(phone4), at(gateway4)))), "PROTECTED"},
		{"RELEASE", renew(dhcp(release, at(gateway4), from(phone4))), "PROTECTED"},
		{"OFFER", ask(dhcp(offer, nil)), "PROTECTED"},
		{"ACK", ask(dhcp(ackDHCP, nil)), "PROTECTED"},
		{"NAK", ask(dhcp(nak, nil)), "PROTECTED"},
		{"no message that there is", ask(dhcp(200, nil)), "PROTECTED"},

		{"BOOTP", ask(dhcp(0, nil)), "MALFORMED"},
		{"a server's", ask(dhcp(discover, nil, set(0, 2))), "MALFORMED"},
		{"another hardware", ask(dhcp(discover, nil, set(1, 6))), "MALFORMED"},
		{"long hardware addresses", ask(dhcp(discover, nil, set(2, 8))), "MALFORMED"},
		{"by a relay", ask(dhcp(discover, nil, set(24, address(phone4)...))), "MALFORMED"},
		{"another MAC in the message", ask(dhcp(discover, nil, set(28, mac48(otherMAC)...))), "SPOOFED_MAC"},
		{"another MAC on the frame", ethernet(otherMAC, broadcastMAC, 0x800, ip(nobody, everybody, udp(68, 67, dhcp(discover, nil)))), "SPOOFED_MAC"},
		{"another cookie", ask(dhcp(discover, nil, set(239, 0x64))), "MALFORMED"},
		{"without a cookie", ask(dhcp(discover, nil)[:236]), "MALFORMED"},
		{"half a cookie", ask(dhcp(discover, nil)[:238]), "MALFORMED"},
		{"without options", ask(dhcp(discover, nil)[:240]), "MALFORMED"},
		{"half of its fixed part", ask(dhcp(discover, nil)[:100]), "MALFORMED"},
		{"without anything", ask(nil), "MALFORMED"},
		{"without an end", ask(withoutEnd(dhcp(discover, nil))), "MALFORMED"},
		{"an option beyond the end", ask(append(dhcp(discover, nil)[:243], 12, 200, 'a')), "MALFORMED"},
		{"an option that reaches one byte too far", ask(withoutEnd(dhcp(discover, []byte{12, 4, 'a', 'b', 'c'}))), "MALFORMED"},
		{"an option without a length", ask(withoutEnd(dhcp(discover, []byte{12}))), "MALFORMED"},
		{"a message of no length", ask(dhcp(0, []byte{53, 0})), "MALFORMED"},
		{"a message of two bytes", ask(dhcp(0, []byte{53, 2, 1, 3})), "MALFORMED"},
		{"two messages", ask(dhcp(discover, item(53, request))), "MALFORMED"},
		{"a short address", ask(dhcp(request, item(50, 10, 213, 0))), "MALFORMED"},
		{"two addresses", ask(dhcp(request, both(wants(phone4), wants(neighbour4)))), "MALFORMED"},
		{"two servers", ask(dhcp(request, both(wants(phone4), at(gateway4), at(neighbour4)))), "MALFORMED"},
		{"more options than are looked at", ask(dhcp(discover, padding(63))), "MALFORMED"},
		{"the end beyond the datagram", shorter(ask(dhcp(discover, nil))), "MALFORMED"},

		{"as a neighbour", ethernet(phoneMAC, broadcastMAC, 0x800, ip(neighbour4, everybody, udp(68, 67, dhcp(discover, nil)))), "SPOOFED_IP"},
		{"as nobody to the gateway", up(ip(nobody, gateway4, udp(68, 67, dhcp(discover, nil)))), "SPOOFED_IP"},
		{"to a neighbour", up(ip(phone4, neighbour4, udp(68, 67, dhcp(discover, nil)))), "PROTECTED"},
		{"to the host by another address", up(ip(phone4, "192.168.7.1", udp(68, 67, dhcp(discover, nil)))), "PROTECTED"},
		{"to its network", up(ip(phone4, "10.213.255.255", udp(68, 67, dhcp(discover, nil)))), "MULTICAST"},
		{"from another port", up(ip(nobody, everybody, udp(67, 67, dhcp(discover, nil)))), "MULTICAST"},
		{"to another port", up(ip(nobody, everybody, udp(68, 68, dhcp(discover, nil)))), "MULTICAST"},
		{"from another port to the gateway", up(ip(phone4, gateway4, udp(1068, 67, dhcp(request, nil, from(phone4))))), "PROTECTED"},
		{"in fragments", up(ip(nobody, everybody, udp(68, 67, dhcp(discover, nil)), fragment4(1, 0, true))), "MULTICAST"},
		{"shorter than its datagram says", up(ip(nobody, everybody, udp(68, 67, dhcp(discover, nil), set16(4, 300)))), "MULTICAST"},
		{"VLAN", tagged(0x8100, ask(dhcp(discover, nil))), "VLAN"},
	})
	if n := l.countFlows(); n != 0 {
		t.Errorf("%d flows of DHCP", n)
	}
	l.phone(func(p *bpfPhone) { answersDHCP(p); p.Flags |= uint32(bpfPhoneFlagPHONE_CUT) })
	l.run([]step{{"of a phone that is cut", policy.Egress, ask(dhcp(discover, nil)), "CUT"}})
	l.phone(func(p *bpfPhone) { answersDHCP(p); p.Ip4 = [16]byte{} })
	l.run([]step{{"of a phone without IPv4", policy.Egress, ask(dhcp(discover, nil)), "MULTICAST"}})
	l.phone(func(*bpfPhone) {})
	l.run([]step{
		{"of a phone that has no DHCP", policy.Egress, ask(dhcp(discover, nil)), "MULTICAST"},
		{"of a phone that has no DHCP, to the gateway", policy.Egress, renew(dhcp(request, nil, from(phone4))), "PROTECTED"},
	})
	l.phone(answersDHCP)
	l.policy("")
	l.run([]step{{"before there is a policy", policy.Egress, ask(dhcp(discover, nil)), "NO_POLICY"}})
}

// shorter makes the datagram of a frame end a byte before the IP packet does.
func shorter(frame []byte) []byte {
	length := frame[14+20+4:]
	binary.BigEndian.PutUint16(length, binary.BigEndian.Uint16(length)-1)
	return frame
}

// answer is what a phone gets.
type answer struct {
	target, mac           string
	kind                  byte
	flags                 uint16
	client, yours, server string
	options               string
}

func TestAnswersOfDHCP(t *testing.T) {
	l := newLab(t, "default deny-all\n")
	const lease = "1=255.255.0.0 3=10.213.0.1 6=10.213.0.1 51=86400 53=5 54=10.213.0.1"
	offered := strings.Replace(lease, "53=5", "53=2", 1)
	for _, c := range []struct {
		name   string
		frame  []byte
		prefix uint8
		want   answer
	}{
		{"DISCOVER", ask(dhcp(discover, nil)), 16, answer{phone4, phoneMAC, 2, 0, nobody, phone4, gateway4, offered}},
		{"DISCOVER for everybody's ears", ask(dhcp(discover, wants(neighbour4), broadcastFlag)), 16, answer{everybody, broadcastMAC, 2, 0x8000, nobody, phone4, gateway4, offered}},
		{"DISCOVER with another's address", ask(dhcp(discover, nil, from(neighbour4))), 16, answer{phone4, phoneMAC, 2, 0, nobody, phone4, gateway4, offered}},
		{"DISCOVER that is long", ask(append(dhcp(discover, item(12, make([]byte, 200)...)), padding(300)...)), 16, answer{phone4, phoneMAC, 2, 0, nobody, phone4, gateway4, offered}},
		{"DISCOVER with names", ask(dhcp(discover, nil, set(44, []byte(strings.Repeat("x", 192))...), set(8, 0, 9), set(3, 1), set(16, 1, 2, 3, 4, 5, 6, 7, 8))), 16, answer{phone4, phoneMAC, 2, 0, nobody, phone4, gateway4, offered}},
		{"DISCOVER in a small network", ask(dhcp(discover, nil)), 30, answer{phone4, phoneMAC, 2, 0, nobody, phone4, gateway4, strings.Replace(offered, "255.255.0.0", "255.255.255.252", 1)}},
		{"DISCOVER in a network of one", ask(dhcp(discover, nil)), 32, answer{phone4, phoneMAC, 2, 0, nobody, phone4, gateway4, strings.Replace(offered, "255.255.0.0", everybody, 1)}},
		{"DISCOVER in a network of all", ask(dhcp(discover, nil)), 0, answer{phone4, phoneMAC, 2, 0, nobody, phone4, gateway4, strings.Replace(offered, "255.255.0.0", nobody, 1)}},
		{"REQUEST", ask(dhcp(request, both(wants(phone4), at(gateway4)))), 16, answer{phone4, phoneMAC, 5, 0, nobody, phone4, gateway4, lease}},
		{"REQUEST for everybody's ears", ask(dhcp(request, wants(phone4), broadcastFlag)), 16, answer{everybody, broadcastMAC, 5, 0x8000, nobody, phone4, gateway4, lease}},
		{"REQUEST to stay", renew(dhcp(request, nil, from(phone4), broadcastFlag)), 16, answer{phone4, phoneMAC, 5, 0x8000, phone4, phone4, gateway4, lease}},
		{"REQUEST of another address", ask(dhcp(request, both(wants(neighbour4), at(gateway4)))), 16, answer{everybody, broadcastMAC, 6, 0, nobody, nobody, nobody, "53=6 54=10.213.0.1"}},
		{"REQUEST to stay at another address", ask(dhcp(request, nil, from(neighbour4))), 16, answer{everybody, broadcastMAC, 6, 0, nobody, nobody, nobody, "53=6 54=10.213.0.1"}},
		{"INFORM", renew(dhcp(inform, nil, from(phone4))), 16, answer{phone4, phoneMAC, 5, 0, phone4, nobody, gateway4, strings.Replace(lease, "51=86400 ", "", 1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.phone(func(p *bpfPhone) { answersDHCP(p); p.Prefix4 = c.prefix })
			frame := l.answer(t, c.frame)
			if got := readAnswer(t, frame); got != c.want {
				t.Errorf("the answer is\n%+v; want\n%+v", got, c.want)
			}
			l.comesBack(t, frame)
		})
	}
	if n := l.countFlows(); n != 0 {
		t.Errorf("%d flows of DHCP", n)
	}
}

// answer runs a request and returns what becomes of its frame.
func (l *lab) answer(t *testing.T, frame []byte) []byte {
	t.Helper()
	out := make([]byte, 2048)
	options := &ebpf.RunOptions{Data: frame, DataOut: out}
	if got, err := l.FromPhone.Run(options); err != nil || got != answered {
		t.Fatalf("from_phone returns %#x, %v; want %d", got, err, answered)
	}
	return options.DataOut
}

// comesBack fails unless an answer reaches the phone, and nobody else can send the like.
func (l *lab) comesBack(t *testing.T, frame []byte) {
	t.Helper()
	before := l.counters()
	run := func(ingress uint32, frame []byte, want uint32) {
		t.Helper()
		if got, err := l.ToPhone.Run(&ebpf.RunOptions{Data: frame, Context: skbContext{Ingress: ingress}}); err != nil || got != want {
			t.Errorf("to_phone returns %#x for a packet that came from link %d, %v; want %#x", got, ingress, err, want)
		}
	}
	run(labLink, frame, passed)
	if c := l.counters(); c.Packets[1] != before.Packets[1]+1 || c.Bytes[1] != before.Bytes[1]+uint64(len(frame)) {
		t.Errorf("the answer is not counted: %v; before %v", c, before)
	}
	run(0, frame, dropped)
	run(labLink+1, frame, dropped)
	forged := slices.Clone(frame)
	copy(forged[14+12:], address(neighbour4))
	run(labLink, forged, dropped)
	copy(forged[14+12:], frame[14+12:14+16])
	binary.BigEndian.PutUint16(forged[14+20:], 53)
	run(labLink, forged, dropped)
	l.phone(func(*bpfPhone) {})
	run(labLink, frame, dropped)
}

// readAnswer takes an answer apart; what all have alike it checks.
func readAnswer(t *testing.T, frame []byte) answer {
	t.Helper()
	if len(frame) != 342 {
		t.Fatalf("the answer has %d bytes; want 342", len(frame))
	}
	ip, udp, message := frame[14:34], frame[34:42], frame[42:]
	addr := func(b []byte) string { return netip.AddrFrom4([4]byte(b)).String() }
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"the sender's MAC", [6]byte(frame[6:]), [6]byte(mac48(gatewayMAC))},
		{"IP", fmt.Sprintf("%x", ip[:10]), "45000148000000004011"},
		{"the sum of the IP header", sum(ip), uint16(0xffff)},
		{"the sender", addr(ip[12:16]), gateway4},
		{"UDP", fmt.Sprintf("%x", udp), "0043004401340000"},
		{"the beginning", fmt.Sprintf("%x", message[:10]), "02010600123456780000"},
		{"the relay", addr(message[24:28]), nobody},
		{"the client's MAC", [16]byte(message[28:]), [16]byte(append(mac48(phoneMAC), make([]byte, 10)...))},
		{"names", [192]byte(message[44:]), [192]byte{}},
		{"the cookie", binary.BigEndian.Uint32(message[236:]), uint32(0x63825363)},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v; want %v", c.name, c.got, c.want)
		}
	}
	options := readOptions(t, message[240:])
	kind := options[53]
	if len(kind) != 1 {
		t.Fatalf("the options are %v", options)
	}
	return answer{
		addr(ip[16:20]), fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]),
		kind[0], binary.BigEndian.Uint16(message[10:]), addr(message[12:16]), addr(message[16:20]), addr(message[20:24]), optionText(options),
	}
}

// sum is the ones' complement sum of 16-bit words (RFC 1071): 0xffff for a header with its right checksum.
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// readOptions reads options up to their end, behind which nothing but zeros may be.
func readOptions(t *testing.T, b []byte) map[byte][]byte {
	t.Helper()
	options := map[byte][]byte{}
	for len(b) > 1 && b[0] != 255 && len(b) >= 2+int(b[1]) {
		if options[b[0]] != nil {
			t.Errorf("option %d is there twice", b[0])
		}
		options[b[0]] = b[2 : 2+b[1]]
		b = b[2+b[1]:]
	}
	if len(b) == 0 || b[0] != 255 || strings.Trim(string(b[1:]), "\x00") != "" {
		t.Errorf("the options end with %x", b)
	}
	return options
}

// optionText lists options: the lease and the kind as numbers, others as addresses.
func optionText(options map[byte][]byte) string {
	var all []string
	for code := range 256 {
		value, found := options[byte(code)]
		if !found {
			continue
		}
		switch {
		case code == 53:
			all = append(all, fmt.Sprintf("%d=%d", code, value[0]))
		case len(value) != 4:
			all = append(all, fmt.Sprintf("%d=%x", code, value))
		case code == 51:
			all = append(all, fmt.Sprintf("%d=%d", code, binary.BigEndian.Uint32(value)))
		default:
			all = append(all, fmt.Sprintf("%d=%s", code, netip.AddrFrom4([4]byte(value))))
		}
	}
	return strings.Join(all, " ")
}
