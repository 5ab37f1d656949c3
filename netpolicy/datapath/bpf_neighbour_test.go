package datapath

import (
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// toHost is a frame with a message of neighbour discovery from the phone.
func toHost(source, target string, s segment, edits ...edit) []byte {
	return ethernet(phoneMAC, "33:33:ff:00:00:01", 0x86dd, ip(source, target, s, append([]edit{hops(255)}, edits...)...))
}

func TestARPOfAPhone(t *testing.T) {
	l := newLab(t, "allow egress tcp 10.213.0.7/32 443\nallow egress tcp 10.213.0.8/31 80\ndeny egress any 10.213.0.6/32\n")
	l.table(t, policy.Egress, []packetCase{
		{"asks for the gateway", up2(arp(1, phoneMAC, phone4, gateway4)), "pass"},
		{"asks for itself", up2(arp(1, phoneMAC, phone4, phone4)), "pass"},
		{"probes for its address", up2(arp(1, phoneMAC, "0.0.0.0", phone4)), "pass"},
		{"answers the gateway", up2(arp(2, phoneMAC, phone4, gateway4)), "pass"},
		{"tells of itself", up2(arp(2, phoneMAC, phone4, phone4)), "pass"},
		{"asks for a neighbour", up2(arp(1, phoneMAC, phone4, "10.213.0.5")), "NEIGHBOUR"},
		{"asks for a neighbour that a rule allows", up2(arp(1, phoneMAC, phone4, "10.213.0.7")), "pass"},
		{"asks for another neighbour that a rule allows", up2(arp(1, phoneMAC, phone4, "10.213.0.9")), "pass"},
		{"asks for a neighbour that a rule denies", up2(arp(1, phoneMAC, phone4, "10.213.0.6")), "NEIGHBOUR"},
		{"answers a neighbour that a rule allows", up2(arp(2, phoneMAC, phone4, "10.213.0.7")), "NEIGHBOUR"},
		{"probes for the gateway's address", up2(arp(1, phoneMAC, "0.0.0.0", gateway4)), "NEIGHBOUR"},
		{"says it is the gateway", up2(arp(2, phoneMAC, gateway4, gateway4)), "SPOOFED_IP"},
		{"says it is a neighbour", up2(arp(2, phoneMAC, neighbour4, gateway4)), "SPOOFED_IP"},
		{"asks as a neighbour", up2(arp(1, phoneMAC, neighbour4, gateway4)), "SPOOFED_IP"},
		{"asks with another MAC in the message", up2(arp(1, otherMAC, phone4, gateway4)), "SPOOFED_MAC"},
		{"answers with another MAC in the message", up2(arp(2, otherMAC, phone4, gateway4)), "SPOOFED_MAC"},
		{"asks with another MAC on the frame", ethernet(otherMAC, broadcastMAC, 0x806, arp(1, phoneMAC, phone4, gateway4)), "SPOOFED_MAC"},
		{"RARP", ethernet(phoneMAC, broadcastMAC, 0x8035, arp(3, phoneMAC, phone4, gateway4)), "NOT_IP"},
		{"inverse ARP", up2(arp(8, phoneMAC, phone4, gateway4)), "NEIGHBOUR"},
		{"another hardware", up2(arp(1, phoneMAC, phone4, gateway4, set16(0, 6))), "MALFORMED"},
		{"another protocol", up2(arp(1, phoneMAC, phone4, gateway4, set16(2, 0x86dd))), "MALFORMED"},
		{"long hardware addresses", up2(arp(1, phoneMAC, phone4, gateway4, set(4, 8))), "MALFORMED"},
		{"long addresses", up2(arp(1, phoneMAC, phone4, gateway4, set(5, 16))), "MALFORMED"},
		{"VLAN", tagged(0x8100, up2(arp(1, phoneMAC, phone4, gateway4))), "VLAN"},
	})
}

func TestARPToAPhone(t *testing.T) {
	l := newLab(t, "default deny-all\n")
	arpDown := func(m []byte) []byte { return ethernet(gatewayMAC, phoneMAC, 0x806, m) }
	l.table(t, policy.Ingress, []packetCase{
		{"the gateway answers", arpDown(arp(2, gatewayMAC, gateway4, phone4)), "pass"},
		{"the gateway asks", arpDown(arp(1, gatewayMAC, gateway4, phone4)), "pass"},
		{"the gateway asks for another", arpDown(arp(1, gatewayMAC, gateway4, neighbour4)), "NEIGHBOUR"},
	})
}

func TestDiscoveryOfAPhone(t *testing.T) {
	l := newLab(t, open)
	ownSource, otherSource := option(1, phoneMAC), option(1, otherMAC)
	l.table(t, policy.Egress, []packetCase{
		{"asks for the gateway", toHost(phone6, "ff02::1:ff00:1", discovery(135, gateway6, ownSource)), "pass"},
		{"asks for fe80::1", toHost(linkLocal, "ff02::1:ff00:1", discovery(135, "fe80::1", ownSource)), "pass"},
		{"asks the gateway directly", toHost(phone6, gateway6, discovery(135, gateway6, ownSource)), "pass"},
		{"asks without an option", toHost(phone6, gateway6, discovery(135, gateway6)), "pass"},
		{"asks with a nonce", toHost("::", "ff02::1:ff00:2", discovery(135, phone6, []byte{14, 1, 1, 2, 3, 4, 5, 6})), "pass"},
		{"asks whether its address is free", toHost("::", "ff02::1:ff00:2", discovery(135, phone6)), "pass"},
		{"asks whether its link-local address is free", toHost("::", "ff02::1:ff00:2", discovery(135, linkLocal)), "pass"},
		{"asks for a router", toHost(linkLocal, "ff02::2", discovery(133, "", ownSource)), "pass"},
		{"asks for a router without an address", toHost("::", "ff02::2", discovery(133, "")), "pass"},
		{"answers the gateway", toHost(phone6, gateway6, discovery(136, phone6, option(2, phoneMAC))), "pass"},
		{"answers fe80::1", toHost(linkLocal, "fe80::1", discovery(136, linkLocal, option(2, phoneMAC))), "pass"},
		{"tells everybody of itself", toHost(phone6, "ff02::1", discovery(136, phone6, option(2, phoneMAC))), "pass"},
		{"asks for a neighbour", toHost(phone6, "ff02::1:ff00:9", discovery(135, neighbour6, ownSource)), "NEIGHBOUR"},
		{"asks whether the gateway's address is free", toHost("::", "ff02::1:ff00:1", discovery(135, gateway6)), "NEIGHBOUR"},
		{"asks with another's MAC", toHost(phone6, gateway6, discovery(135, gateway6, otherSource)), "SPOOFED_MAC"},
		{"asks with another's MAC in its second option", toHost(phone6, gateway6, discovery(135, gateway6, ownSource, otherSource)), "SPOOFED_MAC"},
		{"asks for a router with another's MAC", toHost(linkLocal, "ff02::2", discovery(133, "", otherSource)), "SPOOFED_MAC"},
		{"answers with another's MAC", toHost(phone6, gateway6, discovery(136, phone6, option(2, otherMAC))), "SPOOFED_MAC"},
		{"answers for the gateway", toHost(phone6, "ff02::1", discovery(136, gateway6, option(2, phoneMAC))), "SPOOFED_IP"},
		{"answers for a neighbour", toHost(phone6, gateway6, discovery(136, neighbour6, option(2, phoneMAC))), "SPOOFED_IP"},
		{"answers as a neighbour", toHost(neighbour6, gateway6, discovery(136, neighbour6, option(2, phoneMAC))), "SPOOFED_IP"},
		{"asks as a neighbour", toHost(neighbour6, gateway6, discovery(135, gateway6, ownSource)), "SPOOFED_IP"},
		{"asks as the gateway", toHost(gateway6, "ff02::1:ff00:2", discovery(135, phone6)), "SPOOFED_IP"},
		{"asks from a link-local address of another", toHost("fe80::99", gateway6, discovery(135, gateway6, ownSource)), "NEIGHBOUR"},
		{"asks a peer on the internet", toHost(phone6, peer6, discovery(135, gateway6, ownSource)), "NEIGHBOUR"},
		{"asks a neighbour", toHost(phone6, neighbour6, discovery(135, gateway6, ownSource)), "NEIGHBOUR"},
		{"asks a wide group", toHost(phone6, "ff0e::1", discovery(135, gateway6, ownSource)), "NEIGHBOUR"},
		{"says it is a router", toHost(linkLocal, "ff02::1", discovery(134, "", make([]byte, 16))), "NEIGHBOUR"},
		{"redirects", toHost(linkLocal, gateway6, discovery(137, peer6, make([]byte, 16))), "NEIGHBOUR"},
		{"from another link", toHost(phone6, gateway6, discovery(135, gateway6, ownSource), hops(254)), "NEIGHBOUR"},
		{"an option without a length", toHost(phone6, gateway6, discovery(135, gateway6, []byte{1, 0, 0, 0, 0, 0, 0, 0})), "MALFORMED"},
		{"an option beyond the packet", toHost(phone6, gateway6, discovery(135, gateway6, []byte{14, 2, 0, 0, 0, 0, 0, 0})), "MALFORMED"},
		{"half an option", toHost(phone6, gateway6, discovery(135, gateway6, []byte{14, 1, 0, 0})), "MALFORMED"},
		{"a long MAC", toHost(phone6, gateway6, discovery(135, gateway6, append([]byte{1, 2}, make([]byte, 14)...))), "SPOOFED_MAC"},
		{"nine options", toHost(phone6, gateway6, discovery(135, gateway6, make9(ownSource)...)), "NEIGHBOUR"},
		{"in a fragment", up(ip(phone6, "ff02::1", fragment6(1, 0, false, discovery(136, phone6)), hops(255))), "MULTICAST"},
		{"in a fragment to the gateway", up(ip(phone6, gateway6, fragment6(1, 0, true, discovery(136, phone6)), hops(255))), "PROTOCOL"},
		{"another MAC on the frame", ethernet(otherMAC, gatewayMAC, 0x86dd, ip(phone6, gateway6, discovery(135, gateway6), hops(255))), "SPOOFED_MAC"},
	})
}

func make9(o []byte) (all [][]byte) {
	for range 9 {
		all = append(all, o)
	}
	return all
}

func TestDiscoveryToAPhone(t *testing.T) {
	l := newLab(t, open)
	l.table(t, policy.Ingress, []packetCase{
		{"the gateway asks", down(ip(gateway6, "ff02::1:ff00:2", discovery(135, phone6, option(1, gatewayMAC)), hops(255))), "pass"},
		{"fe80::1 asks", down(ip("fe80::1", linkLocal, discovery(135, linkLocal, option(1, gatewayMAC)), hops(255))), "pass"},
		{"the gateway answers", down(ip(gateway6, phone6, discovery(136, gateway6, option(2, gatewayMAC)), hops(255))), "pass"},
		{"fe80::1 answers", down(ip("fe80::1", phone6, discovery(136, "fe80::1", option(2, gatewayMAC)), hops(255))), "pass"},
		{"a router tells of itself", down(ip("fe80::1", "ff02::1", discovery(134, "", make([]byte, 16)), hops(255))), "NEIGHBOUR"},
		{"a peer answers", down(ip(peer6, phone6, discovery(136, gateway6), hops(255))), "NEIGHBOUR"},
		{"a neighbour asks", down(ip(neighbour6, phone6, discovery(135, phone6), hops(255))), "NEIGHBOUR"},
		{"the gateway redirects", down(ip("fe80::1", phone6, discovery(137, peer6, make([]byte, 16)), hops(255))), "NEIGHBOUR"},
		{"the gateway asks another", down(ip(gateway6, neighbour6, discovery(135, neighbour6), hops(255))), "NEIGHBOUR"},
		{"from another link", down(ip(gateway6, phone6, discovery(136, gateway6), hops(64))), "NEIGHBOUR"},
	})
}
