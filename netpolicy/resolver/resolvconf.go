package resolver

import (
	"fmt"
	"net/netip"

	"github.com/miekg/dns"
)

// readResolvConf returns the name servers of a resolv.conf, as resolv.conf(5) has it; lines that name none are passed over, as the C
// library does.
func readResolvConf(path string) ([]netip.AddrPort, error) {
	c, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the host's name servers: %w", err)
	}
	var list []netip.AddrPort
	for _, server := range c.Servers {
		if a, err := netip.ParseAddr(server); err == nil {
			list = append(list, netip.AddrPortFrom(a, 53))
		}
	}
	return list, nil
}
