package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// maxFlows is the most that network.max_flows may be: each flow takes some 200 bytes of the kernel's memory, and every phone may have as many.
const maxFlows = 1 << 20

// checkNetwork checks what phones' networks are made of. Whether the host uses the pools itself is found out when they are made.
func (c *Config) checkNetwork() error {
	n := c.Network
	if !n.IPv4Pool.Addr().Is4() || n.IPv4Pool.Bits() < 8 || n.IPv4Pool.Bits() > 30 {
		return invalid("network.ipv4_pool", "%q must be an IPv4 prefix of 8..30 bits, such as 10.213.0.0/16", prefixText(n.IPv4Pool))
	}
	if n.IPv6Pool.IsValid() && (!n.IPv6Pool.Addr().Is6() || n.IPv6Pool.Addr().Is4In6() || n.IPv6Pool.Bits() < 32 || n.IPv6Pool.Bits() > 126) {
		return invalid("network.ipv6_pool", "%q must be an IPv6 prefix of 32..126 bits, such as fd70:686f:6e65::/64, or empty for none", n.IPv6Pool)
	}
	for _, p := range []struct {
		key  string
		pool netip.Prefix
	}{{"network.ipv4_pool", n.IPv4Pool}, {"network.ipv6_pool", n.IPv6Pool}} {
		if p.pool != p.pool.Masked() {
			return invalid(p.key, "%s has bits behind its prefix: it must be %s", p.pool, p.pool.Masked())
		}
	}
	if strings.ContainsAny(n.Uplink, "/ \t\n") || len(n.Uplink) > 15 {
		return invalid("network.uplink", "%q must be the name of an interface, at most 15 characters, or empty for that of the default route", n.Uplink)
	}
	for i, text := range n.NameServers {
		if _, err := nameServer(text); err != nil {
			return invalid(fmt.Sprintf("network.name_servers[%d]", i), "%q must be ADDRESS or ADDRESS:PORT", text)
		}
	}
	if n.MaxFlows < 64 || n.MaxFlows > maxFlows {
		return invalid("network.max_flows", "%d must be 64..%d", n.MaxFlows, maxFlows)
	}
	return nil
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// nameServer reads ADDRESS or ADDRESS:PORT; without one the port is 53.
func nameServer(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	return netip.ParseAddrPort(text)
}
