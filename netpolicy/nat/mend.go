package nat

import (
	"fmt"
	"strings"
)

// describe writes what the conflict means and what mends it. prefix is what the names of phones' links begin with.
func (c *Conflict) describe(prefix string) {
	what := familyName(c.IPv6) + " from phones to the world"
	by := "a rule"
	if c.Rule == 0 {
		by = "the policy"
	}
	switch c.Owner {
	case "Docker":
		c.Text = fmt.Sprintf("%s is dropped by %s of chain %s in table %s: Docker sets the policy of FORWARD to DROP when it is the one that switches forwarding on", what, by, c.Chain, c.Table)
		c.Mend = iptables(c.IPv6, "", "DOCKER-USER", prefix)
	case "firewalld":
		c.Text = fmt.Sprintf("%s is dropped by %s of chain %s in table %s: firewalld rejects what no zone or policy forwards", what, by, c.Chain, c.Table)
		c.Mend = []string{
			"firewall-cmd --permanent --zone=trusted --add-interface=" + prefix + "+",
			"firewall-cmd --reload",
		}
	case "ufw":
		c.Text = fmt.Sprintf("%s is dropped by %s of chain %s in table %s: ufw routes nothing that it was not told to", what, by, c.Chain, c.Table)
		c.Mend = []string{"ufw route allow in on " + prefix + "+", "ufw route allow out on " + prefix + "+"}
	case "iptables":
		c.Text = fmt.Sprintf("%s is dropped by %s of chain %s in table %s", what, by, c.Chain, c.Table)
		c.Mend = iptables(c.IPv6, "", "FORWARD", prefix)
	case "iptables-legacy":
		c.Text = what + " is dropped, and not by nftables: by rules of iptables-legacy, which do not tell which"
		c.Mend = iptables(c.IPv6, "-legacy", "FORWARD", prefix)
	default:
		c.Text = fmt.Sprintf("%s is dropped by %s of chain %s in table %s", what, by, c.Chain, c.Table)
		c.Mend = []string{
			fmt.Sprintf("nft insert rule %s %s iifname '\"%s*\"' accept", c.Table, c.Chain, prefix),
			fmt.Sprintf("nft insert rule %s %s oifname '\"%s*\"' accept", c.Table, c.Chain, prefix),
		}
	}
}

// iptables are commands that let the links of phones through at the top of a chain. variant is "" or "-legacy".
func iptables(six bool, variant, chain, prefix string) []string {
	program := "iptables" + variant
	if six {
		program = "ip6tables" + variant
	}
	return []string{
		fmt.Sprintf("%s -I %s -i %s+ -j ACCEPT", program, chain, prefix),
		fmt.Sprintf("%s -I %s -o %s+ -j ACCEPT", program, chain, prefix),
	}
}

// String is the conflict as a message: what is dropped, and the commands.
func (c Conflict) String() string { return c.Text + "; to mend it: " + strings.Join(c.Mend, " && ") }
