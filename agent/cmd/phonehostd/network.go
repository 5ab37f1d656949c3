package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/phonehost/phonehost/agent/config"
	"github.com/phonehost/phonehost/agent/doctor"
	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/network"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/netns"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// pinDir is where the networks of phones below a cgroup are pinned.
func pinDir(cgroupRoot string) string { return bpfDir("net", cgroupRoot) }

// nameServerState is the directory that the name server reads.
func nameServerState(c config.Config) string { return filepath.Join(c.RunDir, "names") }

// networkConfig says what the phones' networks are made of.
func (a *agent) networkConfig() netpolicy.Config { return networkConfig(a.cfg, a.cgroupRoot, a.logger) }

func networkConfig(c config.Config, cgroupRoot string, logger *slog.Logger) netpolicy.Config {
	n := c.Network
	return netpolicy.Config{
		NetNS: netns.New(netnsDir(c)), Pins: pinDir(cgroupRoot), Pool4: n.IPv4Pool, Pool6: n.IPv6Pool, Uplink: n.Uplink,
		Masquerade4: n.Masquerade4, Masquerade6: n.Masquerade6 && n.IPv6Pool.IsValid(), MaxFlows: n.MaxFlows, Sample: n.FlowSample,
		NameServerState: nameServerState(c), NameServers: n.Upstreams(),
		// The directory goes with a boot, as the settings do.
		Settings: filepath.Join(c.RunDir, "network-settings.json"), Logger: logger,
	}
}

// networkChecks is what the doctor asks of networks; nil where phones have none.
func (a *agent) networkChecks() (doctor.Networks, error) {
	if !a.cfg.Network.Enabled {
		return nil, nil
	}
	return netpolicy.NewCheckup(a.networkConfig())
}

// openNetworks makes what phones get their networks from. Where the host cannot have them the agent runs all the same: phones that run are
// left alone, and each start is refused with the reason.
func (a *agent) openNetworks(ctx context.Context) error {
	if !a.cfg.Network.Enabled {
		a.openLoopback()
		return nil
	}
	engine, err := netpolicy.Open(ctx, a.networkConfig())
	if err != nil {
		a.health.Set(warnNetwork, health.Error, "phones cannot have networks, so none is started: "+err.Error()+"; mend it and restart the agent, or set network.enabled = false")
		a.networks = network.Unavailable{Dir: netns.New(a.netnsDir()), Err: err}
		return nil
	}
	a.defers(engine.Close)
	a.networks, a.netpolicy = engine, engine
	a.network, err = network.Open(ctx, network.Config{
		DB: a.db, Journal: a.journal, Engine: engine, Parse: policy.Parse, Users: phone.PolicyUsers, Logger: a.logger,
		OnProblems: a.onPolicies,
	})
	if err != nil {
		return err
	}
	a.defers(func() error { a.network.Close(); return nil })
	return nil
}

// maxNamedPolicies is how many policies a warning names.
const maxNamedPolicies = 5

// onPolicies keeps the warning about policies that are not in force as they are stored.
func (a *agent) onPolicies(policies []network.Policy) {
	if len(policies) == 0 {
		a.health.Clear(warnPolicies)
		return
	}
	text := "network policies are not in force as they are stored, and their phones keep the rules that they had: "
	for i, p := range policies[:min(len(policies), maxNamedPolicies)] {
		if i > 0 {
			text += "; "
		}
		text += p.Name + " (" + p.Problem + ")"
	}
	if n := len(policies) - maxNamedPolicies; n > 0 {
		text += fmt.Sprintf("; and %d more", n)
	}
	a.health.Set(warnPolicies, health.Warning, text+"; the kernel is asked again every minute at most; one that cannot be read has to be put anew (phonectl net policy put)")
}

// expectNetworks tells the engine of networks which it has made for phones before, and removes what was left half made.
func (a *agent) expectNetworks(ctx context.Context) error {
	if a.netpolicy == nil {
		return nil
	}
	made, err := a.netpolicy.List()
	if err != nil {
		return err
	}
	wanted := slices.DeleteFunc(a.phones.Networks(), func(p netpolicy.Phone) bool { return !slices.Contains(made, p.ID) })
	a.netpolicy.Expect(wanted)
	ids := make([]string, 0, len(wanted))
	for _, p := range wanted {
		ids = append(ids, p.ID)
	}
	return a.netpolicy.Sweep(ctx, ids)
}

// networkTotalsTime bounds a look at the counters of all phones.
const networkTotalsTime = 5 * time.Second

// networkTotals adds up what the networks of all phones have counted.
func (a *agent) networkTotals() (network.Totals, error) {
	if a.network == nil {
		return network.Totals{}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), networkTotalsTime)
	defer cancel()
	snaps := a.phones.List()
	ids := make([]string, 0, len(snaps))
	for _, snap := range snaps {
		ids = append(ids, snap.Record.Spec.ID)
	}
	return a.network.Totals(ctx, ids)
}

// pools are the addresses of the phones.
func (a *agent) pools() phone.Pools {
	if !a.cfg.Network.Enabled {
		return phone.Pools{}
	}
	return phone.Pools{IPv4: a.cfg.Network.IPv4Pool, IPv6: a.cfg.Network.IPv6Pool}
}
