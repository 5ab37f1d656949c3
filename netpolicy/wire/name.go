package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"regexp"
	"strings"
)

const (
	// Prefix begins the names of all host ends.
	Prefix = "ph-"
	// GuestLink is the name of the phone's end.
	GuestLink = "eth0"

	aliasPrefix = "phonehost:"
)

var hostName = regexp.MustCompile(`^` + Prefix + `[0-9a-f]{10}$`)

// LinkName returns the name of a phone's host end: "ph-" and ten hexadecimal digits of the SHA-256 of its id. A link's alias has the id itself.
func LinkName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return Prefix + hex.EncodeToString(sum[:5])
}

// MACs returns the hardware addresses of a phone's ends. They depend on the id alone, are unicast and locally administered (IEEE 802-2014, section 8.4).
func MACs(id string) (guest, host net.HardwareAddr) { return mac("guest:" + id), mac("host:" + id) }

func mac(text string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("phonehost:mac:" + text))
	m := net.HardwareAddr(sum[:6])
	m[0] = m[0]&^1 | 2
	return m
}

// linkLocal returns the address that a MAC makes in fe80::/64 (RFC 4291, appendix A).
func linkLocal(m net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// owner returns the phone whose host end a link is, by its alias; ok is false for a link that is no host end or has no alias yet.
func owner(name, alias string) (id string, ok bool) {
	id, ok = strings.CutPrefix(alias, aliasPrefix)
	return id, ok && LinkName(id) == name
}
