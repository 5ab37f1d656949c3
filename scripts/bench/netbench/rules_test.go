package netbench

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

// prefixes returns n networks that do not touch one another, the last of which is the server's.
func prefixes(n int) []netip.Prefix {
	all := make([]netip.Prefix, n)
	for i := range all[:n-1] {
		all[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>14), byte(i >> 7), byte(i<<1 | 1), 0}), 24) // every other /24
	}
	all[n-1] = netip.PrefixFrom(serverAddress, 24).Masked()
	return all
}

// nftables puts the peer's rules in place: what is established passes by the first rule, and a set of n networks says where a new
// connection of the phone may go. It returns what takes them away.
func (p *path) nftables(b *testing.B, n int) func() {
	b.Helper()
	var elements []string
	for _, network := range prefixes(n) {
		elements = append(elements, network.String())
	}
	nft(b, fmt.Sprintf(`table inet peer {
	set networks {
		type ipv4_addr
		flags interval
		elements = { %s }
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname %q ip saddr %s ip daddr @networks accept
	}
}
`, strings.Join(elements, ", "), p.link.Attrs().Name, phoneAddress))
	return func() { nft(b, "delete table inet peer\n") }
}

func nft(b *testing.B, rules string) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("nft: %v\n%s", err, out)
	}
}
