package netbench

import (
	"testing"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

const (
	phoneID  = "measured"
	pins     = "/sys/fs/bpf/phonehost/net"
	pinsRoot = "/sys/fs/bpf/phonehost"
)

// ours is the programs of netpolicy/datapath, and the path that they are for.
type ours struct {
	*datapath.Datapath
	path       *path
	generation uint64
}

// newDatapath loads the programs, with the bounds that they have by default: the connections of a round find room.
func (p *path) newDatapath(b *testing.B) *ours {
	b.Helper()
	d, err := datapath.Open(datapath.Config{Dir: pins})
	must(b, err)
	b.Cleanup(func() {
		if err := d.Close(); err != nil {
			b.Error(err)
		}
		if err := datapath.Remove(pinsRoot); err != nil {
			b.Error(err)
		}
	})
	return &ours{Datapath: d, path: p}
}

// apply puts a policy in force that lets the phone reach n networks and nothing else. It returns what takes it away.
func (o *ours) apply(b *testing.B, n int) func() {
	b.Helper()
	link := o.path.link
	rules := make([]policy.Rule, 0, n)
	for _, network := range prefixes(n) {
		rules = append(rules, policy.Rule{Action: policy.Allow, Direction: policy.Egress, CIDR: network})
	}
	o.generation++
	object, err := policy.Compile(policy.Policy{Default: policy.DenyAll, Rules: rules}, o.generation)
	must(b, err)
	must(b, o.SetProtected(policy.CompileAddresses(nil)))
	must(b, o.LoadPolicy(0, object))
	must(b, o.Attach(phoneID, link.Attrs().Index))
	must(b, o.SetPhone(link.Attrs().Index, datapath.Phone{
		IPv4: phoneAddress, Gateway4: gatewayAddress, Prefix4: 16, MAC: o.path.eth0.Attrs().HardwareAddr, GatewayMAC: link.Attrs().HardwareAddr,
	}))
	return func() {
		o.passed(b)
		must(b, o.RemovePhone(link.Attrs().Index))
		must(b, o.Detach(phoneID))
		must(b, o.UnloadPolicy(0))
		must(b, o.path.raise())
	}
}

// passed checks that the programs were there: what was measured passed them, and none of it was dropped.
func (o *ours) passed(b *testing.B) {
	b.Helper()
	c, err := o.Counters(0)
	must(b, err)
	for reason, n := range c.Dropped {
		if n > 0 {
			b.Errorf("%d packets were dropped: %s", n, datapath.Reason(reason))
		}
	}
	if c.Packets[policy.Egress] == 0 || c.Packets[policy.Ingress] == 0 {
		b.Errorf("packets that passed: %v; want some in both directions", c.Packets)
	}
}
