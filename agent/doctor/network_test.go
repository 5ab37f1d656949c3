package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
)

// networks is a host whose networks are as the fields say; the zero value has nothing to mend.
type networks struct {
	pins, pools, uplinkErr, filters, connections, limits, conflictsErr, squattersErr, names error
	uplinks                                                                                 []netpolicy.Uplink
	no6, unbounded, unasked                                                                 bool
	conflicts                                                                               []netpolicy.Conflict
	squatters                                                                               []string
}

func (n *networks) PinDir() (string, error) { return "/sys/fs/bpf/phonehost-net-phonehost", n.pins }
func (n *networks) Pools() error            { return n.pools }
func (n *networks) IPv6() bool              { return !n.no6 }
func (n *networks) Filters() error          { return n.filters }

func (n *networks) Uplinks() ([]netpolicy.Uplink, error) {
	if n.uplinks != nil || n.uplinkErr != nil {
		return n.uplinks, n.uplinkErr
	}
	return []netpolicy.Uplink{{Name: "eth0", MTU: 1500, IPv4: true, IPv6: true}}, nil
}

func (n *networks) Connections(context.Context) (bool, string, error) {
	return !n.unbounded, "what bounds the table", n.connections
}
func (n *networks) Limits(context.Context) error { return n.limits }
func (n *networks) Conflicts(context.Context) ([]netpolicy.Conflict, error) {
	return n.conflicts, n.conflictsErr
}
func (n *networks) Squatters() ([]string, error)             { return n.squatters, n.squattersErr }
func (n *networks) NameServer(context.Context) (bool, error) { return !n.unasked, n.names }

var _ Networks = (*netpolicy.Checkup)(nil)

func TestNetworkFindings(t *testing.T) {
	broken := errors.New("broken")
	noTCX := func(h *Host) {
		h.BPF = func(f BPFFeature) error {
			if f == TCX {
				return broken
			}
			return nil
		}
	}
	tests := []struct {
		check, name string
		nets        networks
		change      func(*Host)
		want        Severity
		says        string // part of message or remedy
	}{
		{"network", "disabled", networks{}, func(h *Host) { h.Networks = nil }, OK, "network.enabled = false"},
		{"pools", "disabled", networks{pools: broken}, func(h *Host) { h.Networks = nil }, OK, "not needed"},
		{"bpffs", "not mounted", networks{pins: broken}, nil, Error, "mount -t bpf bpf /sys/fs/bpf"},
		{"pools", "overlap", networks{pools: errors.New("the pool 10.213.0.0/16 overlaps")}, nil, Error, "the pool 10.213.0.0/16 overlaps"},
		{"uplink", "not there", networks{uplinkErr: broken}, nil, Error, "network.uplink"},
		{"uplink", "no default route", networks{uplinks: []netpolicy.Uplink{}}, nil, Warning, "ip route add default"},
		{"uplink", "IPv6 alone", networks{uplinks: []netpolicy.Uplink{{Name: "eth1", IPv6: true}}}, nil, Warning, "eth1, by IPv6 alone"},
		{"uplink", "IPv4 alone", networks{uplinks: []netpolicy.Uplink{{Name: "eth1", IPv4: true}}}, nil, OK, "eth1, by IPv4 alone"},
		{"uplink", "IPv4 alone is all that is wanted", networks{uplinks: []netpolicy.Uplink{{Name: "eth1", IPv4: true}}, no6: true}, nil, OK, "others by eth1"},
		{"forwarding", "before 6.17", networks{}, nil, OK, "net.ipv6.conf.all.forwarding"},
		{"forwarding", "from 6.17 on", networks{}, func(h *Host) {
			h.Root.(fstest.MapFS)["proc/sys/net/ipv6/conf/eth0/force_forwarding"] = file("0\n")
		}, OK, "IPv4 and IPv6 are forwarded on the uplink and the phones' links alone"},
		{"forwarding", "phones without IPv6", networks{no6: true}, nil, OK, "no IPv6"},
		{"forwarding", "an uplink without IPv6", networks{uplinks: []netpolicy.Uplink{{Name: "eth9", IPv4: true, IPv6: true}}}, nil, OK, "the uplink has no IPv6"},
		{"forwarding", "no uplink", networks{uplinkErr: broken}, nil, Warning, "see the check uplink"},
		{"attach", "tcx", networks{filters: broken}, nil, OK, "TCX"},
		{"attach", "filters", networks{}, noTCX, OK, "clsact"},
		{"attach", "neither", networks{filters: broken}, noTCX, Error, "CONFIG_NET_CLS_BPF"},
		{"connections", "unbounded", networks{unbounded: true}, nil, Warning, "what bounds the table"},
		{"connections", "no NAT", networks{connections: broken}, nil, Error, "CONFIG_NFT_NAT"},
		{"bandwidth", "no ifb", networks{limits: fmt.Errorf("no ifb: %w", errdefs.ErrNotImplemented)}, nil, Warning, "CONFIG_IFB"},
		{"firewall", "conflicts", networks{conflicts: []netpolicy.Conflict{
			{Text: "IPv4 is dropped", Mend: []string{"one", "two"}}, {Text: "IPv6 is dropped", Mend: []string{"three"}},
		}}, nil, Error, "IPv4 is dropped; IPv6 is dropped\none && two && three"},
		{"firewall", "not forwarding", networks{conflictsErr: fmt.Errorf("off: %w", errdefs.ErrFailedPrecondition)}, nil, Warning, "start a phone"},
		{"firewall", "not tried", networks{conflictsErr: broken}, nil, Warning, "could not be tried: broken"},
		{"port-53", "taken", networks{squatters: []string{"dnsmasq (pid 812) listens on 0.0.0.0:53"}}, nil, Error, "dnsmasq (pid 812)"},
		{"port-53", "unknown", networks{squattersErr: broken}, nil, Warning, "broken"},
		{"name-server", "silent", networks{names: broken}, nil, Error, "phones have no names: broken"},
		{"name-server", "nobody to ask", networks{unasked: true}, nil, OK, "no phone has a network yet"},
		{"name-server", "not asked", networks{unasked: true, names: broken}, nil, Warning, "cannot be asked"},
	}
	checks := make(map[string]Check)
	for _, c := range Checks() {
		checks[c.Name] = c
	}
	for _, tt := range tests {
		t.Run(tt.check+"/"+tt.name, func(t *testing.T) {
			h := healthy(t)
			h.Networks = &tt.nets
			if tt.change != nil {
				tt.change(h)
			}
			f := checks[tt.check].Run(t.Context(), h)
			if f.Severity != tt.want || !strings.Contains(f.Message+"\n"+f.Remedy, tt.says) {
				t.Errorf("%s: %q (remedy %q), want %s and %q", f.Severity, f.Message, f.Remedy, tt.want, tt.says)
			}
			if (f.Severity == OK) != (f.Remedy == "") {
				t.Errorf("%s with the remedy %q", f.Severity, f.Remedy)
			}
		})
	}
}
