package doctor

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy"
)

// Networks is what the checks of phones' networks ask of this host; netpolicy.Checkup implements it.
type Networks interface {
	// PinDir returns the directory of the pins, and tells whether it can be on a BPF file system.
	PinDir() (string, error)
	// Pools tells whether the phones' addresses are free.
	Pools() error
	// Uplinks returns the links by which phones reach others.
	Uplinks() ([]netpolicy.Uplink, error)
	// IPv6 tells whether phones have IPv6.
	IPv6() bool
	// Filters tells whether programs can be attached without TCX links.
	Filters() error
	// Connections tells what bounds a phone's part of the kernel's table of connections, and whether all does that should.
	Connections(ctx context.Context) (all bool, text string, err error)
	// Limits tells whether bandwidth can be bounded.
	Limits(ctx context.Context) error
	// Conflicts returns whose rules drop what phones send.
	Conflicts(ctx context.Context) ([]netpolicy.Conflict, error)
	// Squatters returns what listens in the place of the name server.
	Squatters() ([]string, error)
	// NameServer tells whether the name server answers, and whether there was an address to ask.
	NameServer(ctx context.Context) (asked bool, err error)
}

// networked makes a check one that is left out where phones have no networks.
func networked(check func(ctx context.Context, h *Host) Finding) func(ctx context.Context, h *Host) Finding {
	return func(ctx context.Context, h *Host) Finding {
		if h.Networks == nil {
			return ok("not needed: phones have no networks")
		}
		return check(ctx, h)
	}
}

func checkNetwork(_ context.Context, h *Host) Finding {
	if h.Networks == nil {
		return ok("phones have loopback and nothing else (network.enabled = false)")
	}
	return ok("each phone gets a network of its own")
}

func checkBPFFS(_ context.Context, h *Host) Finding {
	if h.Networks == nil {
		return ok("phones have no networks to be pinned; app-lists tells of what else is")
	}
	dir, err := h.Networks.PinDir()
	if err != nil {
		return bad("mount -t bpf bpf /sys/fs/bpf (and write it to /etc/fstab: bpf /sys/fs/bpf bpf mode=0700 0 0)",
			"the networks of phones cannot be pinned in %s: %v", dir, err)
	}
	return ok("networks are pinned in %s", dir)
}

// checkPools passes on what wire says, which names the key to change and what to change it to.
func checkPools(_ context.Context, h *Host) Finding {
	if err := h.Networks.Pools(); err != nil {
		return bad("choose other addresses in [network] of phonehostd.toml, and restart the agent", "%v", err)
	}
	return ok("the phones' addresses are free")
}

func checkUplink(_ context.Context, h *Host) Finding {
	uplinks, err := h.Networks.Uplinks()
	if err != nil {
		return bad("set network.uplink in phonehostd.toml to a link of this host (ip link), or to \"\" for that of the default route", "%v", err)
	}
	four, six, texts := false, false, make([]string, 0, len(uplinks))
	for _, u := range uplinks {
		four, six = four || u.IPv4, six || u.IPv6
		texts = append(texts, u.Name)
	}
	switch names := strings.Join(texts, ", "); {
	case !four && !six:
		return warn("ip route add default via ROUTER (or set network.uplink)", "this host has no default route: phones reach nobody")
	case !four:
		return warn("ip route add default via ROUTER, if phones need IPv4", "phones reach others by %s, by IPv6 alone: there is no default route of IPv4", names)
	case h.Networks.IPv6() && !six:
		return ok("phones reach others by %s, by IPv4 alone: there is no default route of IPv6", names)
	default:
		return ok("phones reach others by %s", names)
	}
}

// checkForwarding tells which of the host's own settings phones change. An error of Uplinks is another check's.
func checkForwarding(_ context.Context, h *Host) Finding {
	uplinks, err := h.Networks.Uplinks()
	if err != nil {
		return warn("see the check uplink", "what is forwarded is not known: %v", err)
	}
	if !h.Networks.IPv6() {
		return ok("IPv4 is forwarded on the uplink and the phones' links; phones have no IPv6")
	}
	for _, u := range uplinks {
		switch dir := "proc/sys/net/ipv6/conf/" + u.Name; {
		case !u.IPv6 || !h.exists(dir):
		case !h.exists(dir + "/force_forwarding"):
			return ok("the kernel cannot forward IPv6 on some links alone (Linux 6.17): with the first phone net.ipv6.conf.all.forwarding is switched on, and accept_ra=2 where it was 1")
		default:
			return ok("IPv4 and IPv6 are forwarded on the uplink and the phones' links alone")
		}
	}
	return ok("IPv4 is forwarded on the uplink and the phones' links; the uplink has no IPv6")
}

// checkAttach tells how the programs get onto the phones' links.
func checkAttach(_ context.Context, h *Host) Finding {
	tcx := h.BPF(TCX)
	if tcx == nil {
		return ok("programs are attached by TCX links")
	}
	if err := h.Networks.Filters(); err != nil {
		return bad("use a kernel with TCX links (Linux 6.6), or with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF",
			"programs cannot be attached to phones' links: %v; and no TCX links: %v", err, tcx)
	}
	return ok("programs are attached by clsact filters, since the kernel has no TCX links (Linux 6.6)")
}

func checkConnections(ctx context.Context, h *Host) Finding {
	const remedy = "use a kernel with CONFIG_NF_CONNTRACK_TIMEOUT and CONFIG_NFT_CONNLIMIT"
	all, text, err := h.Networks.Connections(ctx)
	switch {
	case err != nil:
		return bad("use a kernel with CONFIG_NF_TABLES_INET, CONFIG_NFT_CT, CONFIG_NFT_NAT and CONFIG_NFT_MASQ", "the kernel does not take the rules of NAT: %v", err)
	case !all:
		return warn(remedy, "%s", text)
	}
	return ok("%s", text)
}

func checkBandwidth(ctx context.Context, h *Host) Finding {
	if err := h.Networks.Limits(ctx); err != nil {
		return warn("use a kernel with CONFIG_NET_SCH_TBF, CONFIG_NET_SCH_INGRESS, CONFIG_IFB, CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED; until then phones with a limit do not start",
			"bandwidth cannot be limited: %v", err)
	}
	return ok("bandwidth can be limited in both directions")
}

// checkFirewall tries whether others' rules let phones through.
func checkFirewall(ctx context.Context, h *Host) Finding {
	conflicts, err := h.Networks.Conflicts(ctx)
	if errors.Is(err, errdefs.ErrFailedPrecondition) {
		return warn("start a phone, which switches forwarding on, and run phonectl doctor again", "%v", err)
	}
	if err != nil {
		return warn("run the agent as root, on a kernel with CONFIG_NF_TABLES_INET and CONFIG_PACKET (modprobe af_packet)", "whether rules of this host drop what phones send could not be tried: %v", err)
	}
	if len(conflicts) == 0 {
		return ok("no rules of this host drop what phones send")
	}
	texts, mend := make([]string, 0, len(conflicts)), make([]string, 0, len(conflicts))
	for _, c := range conflicts {
		texts, mend = append(texts, c.Text), append(mend, strings.Join(c.Mend, " && "))
	}
	return bad(strings.Join(mend, " && ")+" (and keep it where this host keeps its rules: docs/netpolicy.md)", "%s", strings.Join(texts, "; "))
}

func checkPort53(_ context.Context, h *Host) Finding {
	found, err := h.Networks.Squatters()
	if err != nil {
		return warn("run it as root, where /proc is mounted", "what listens on port 53 is not known: %v", err)
	}
	if len(found) > 0 {
		return bad("have it listen on addresses of its own (dnsmasq: bind-interfaces and except-interface=ph-*; named: listen-on and listen-on-v6; unbound: interface)",
			"the phones' name server needs port 53 of the gateway's addresses: %s", strings.Join(found, ", "))
	}
	return ok("port 53 of the gateway's addresses is the name server's")
}

func checkNameServer(ctx context.Context, h *Host) Finding {
	asked, err := h.Networks.NameServer(ctx)
	switch {
	case err != nil && !asked:
		return warn("run phonectl doctor again", "the name server cannot be asked: %v", err)
	case err != nil:
		return bad("see the checks port-53 and firewall, and what it logs; the agent starts it again by itself", "phones have no names: %v", err)
	case !asked:
		return ok("no phone has a network yet, so the name server has no address to be asked at")
	}
	return ok("the name server answers")
}
