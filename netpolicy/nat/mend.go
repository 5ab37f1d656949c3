package nat

import (
	"fmt"
	"strings"
)

// describe writes what the conflict means and what mends it. prefix is what the names of phones' links begin with.
func (c *Conflict) describe(prefix string) {
	what := familyName(c.IPv6) + " from phones to the world"
	if c.Names {
		what = familyName(c.IPv6) + " from phones to the name server"
	}
	by := "a rule"
	if c.Rule == 0 {
		by = "the policy"
	}
	c.Text = fmt.Sprintf("%s is dropped by %s of chain %s in table %s", what, by, c.Chain, c.Table)
	switch c.Owner {
	case "Docker":
		if c.Rule == 0 && !c.Names {
			c.Text += ": Docker sets the policy of FORWARD to DROP when it is the one that switches forwarding on"
		}
		c.Mend = iptables(c, "", "DOCKER-USER", prefix)
	case "firewalld":
		c.Text += ": firewalld rejects what no zone or policy lets through"
		c.Mend = []string{
			"firewall-cmd --permanent --zone=trusted --add-interface=" + prefix + "+",
			"firewall-cmd --reload",
		}
	case "ufw":
		c.Text += ": ufw lets nothing through that it was not told to"
		c.Mend = []string{"ufw route allow in on " + prefix + "+", "ufw route allow out on " + prefix + "+"}
		if c.Names {
			c.Mend = []string{"ufw allow in on " + prefix + "+"}
		}
	case "iptables":
		c.Mend = iptables(c, "", "FORWARD", prefix)
	case "iptables-legacy":
		c.Text = what + " is dropped, and not by nftables: by rules of iptables-legacy, which do not tell which"
		c.Mend = iptables(c, "-legacy", "FORWARD", prefix)
	default:
		c.Mend = []string{fmt.Sprintf("nft insert rule %s %s iifname '\"%s*\"' accept", c.Table, c.Chain, prefix)}
		if !c.Names {
			c.Mend = append(c.Mend, fmt.Sprintf("nft insert rule %s %s oifname '\"%s*\"' accept", c.Table, c.Chain, prefix))
		}
	}
}

// iptables are commands that let the links of phones through at the top of a chain, which is INPUT for names. variant is "" or
// "-legacy".
func iptables(c *Conflict, variant, chain, prefix string) []string {
	program := "iptables" + variant
	if c.IPv6 {
		program = "ip6tables" + variant
	}
	if c.Names {
		return []string{fmt.Sprintf("%s -I INPUT -i %s+ -j ACCEPT", program, prefix)}
	}
	return []string{
		fmt.Sprintf("%s -I %s -i %s+ -j ACCEPT", program, chain, prefix),
		fmt.Sprintf("%s -I %s -o %s+ -j ACCEPT", program, chain, prefix),
	}
}

// String is the conflict as a message: what is dropped, and the commands.
func (c Conflict) String() string { return c.Text + "; to mend it: " + strings.Join(c.Mend, " && ") }
