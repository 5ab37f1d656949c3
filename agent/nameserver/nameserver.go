// Package nameserver says how the phones' name server (netpolicy/resolver) runs as a service of the host (runtime/service): the program is
// the agent's own, in a container with nothing but it, on the host's network, as a user of its own that may bind port 53 and use two
// pinned maps.
//
// The agent opens the datapath, lets the server use its pins (resolver.Grant), writes its state (resolver.WriteState), and has
// service.Host.Keep run what Spec returns; each start has its control socket, which Control asks.
package nameserver

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/resolver"
	"github.com/phonehost/phonehost/runtime/ocispec"
	"github.com/phonehost/phonehost/runtime/service"
)

// Name is the service's name.
const Name = "dns"

// Config says what the name server needs of the host. Paths are absolute.
type Config struct {
	// Program is phonehostd, a static file.
	Program string
	// UID is the user and group of the server; nobody else has it. The pins are granted to the group.
	UID uint32
	// Gateways are the addresses to listen on, at port 53.
	Gateways []netip.Addr
	// Pins is the directory of the datapath's pins, and State that of resolver.WriteState, which must be there.
	Pins, State string
	// ResolvConf is the host's, default DefaultResolvConf.
	ResolvConf string
}

// Limits of the server: room for its cache, for all questions that wait for upstreams, and for connections.
const (
	memoryBytes = 256 << 20
	goMemory    = "GOMEMLIMIT=192MiB"
	maxPIDs     = 128
	maxFiles    = 4096
)

// Names of what the server finds in its container.
const (
	configFile  = "dns.json"
	controlFile = "control.sock"
	pinsDir     = ocispec.ServiceBindDir + "/pins"
	stateDir    = ocispec.ServiceBindDir + "/state"
	hostDir     = ocispec.ServiceBindDir + "/host"
)

// Spec returns the service. It depends on where the host's resolv.conf leads to: whoever has it run asks again when that has changed (WatchResolvConf).
//
// Of the host it sees the directory that resolv.conf is in, read-only, with what anybody may read there: the file is replaced by rename,
// so it cannot be bound alone.
func Spec(c Config) (service.Spec, error) {
	if c.ResolvConf == "" {
		c.ResolvConf = DefaultResolvConf
	}
	conf, err := filepath.EvalSymlinks(c.ResolvConf)
	if err != nil {
		return service.Spec{}, fmt.Errorf("name server: the host's resolv.conf: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	config := resolver.Config{
		Pins: pinsDir, State: stateDir, Control: service.RunDir + "/" + controlFile, ResolvConf: filepath.Join(hostDir, filepath.Base(conf)),
	}
	for _, a := range c.Gateways {
		config.Listen = append(config.Listen, netip.AddrPortFrom(a, 53))
	}
	text, err := config.JSON()
	if err != nil {
		return service.Spec{}, err
	}
	capabilities, err := capabilities()
	if err != nil {
		return service.Spec{}, err
	}
	return service.Spec{
		Name: Name, Binary: c.Program, Args: []string{"dns", "--config", service.ConfigDir + "/" + configFile}, Env: []string{goMemory},
		UID: c.UID, Capabilities: capabilities, BPF: resolver.BPFCommands(),
		Binds: []ocispec.Bind{
			{Source: c.Pins, Destination: pinsDir}, {Source: c.State, Destination: stateDir}, {Source: filepath.Dir(conf), Destination: hostDir},
		},
		Files:       map[string][]byte{configFile: text},
		MemoryBytes: memoryBytes, PIDs: maxPIDs, OpenFiles: maxFiles,
		Ready: ready,
	}, nil
}

// capabilities are those of the server. Pinned maps need none from Linux 5.19 on: before, every command of bpf(2) asked for CAP_BPF
// where kernel.unprivileged_bpf_disabled is set; since then only those that make maps and load programs do (kernel/bpf/syscall.c, __sys_bpf).
func capabilities() ([]string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("name server: the kernel's release: %w", err)
	}
	list := []string{"CAP_NET_BIND_SERVICE"}
	if needsBPF(unix.ByteSliceToString(name.Release[:])) {
		list = append(list, "CAP_BPF")
	}
	return list, nil
}

// needsBPF tells whether a kernel of this release wants CAP_BPF for maps that were opened by their pins.
func needsBPF(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false // no kernel is named so
	}
	return major < 5 || major == 5 && minor < 19
}

// Control returns the control socket of an instance.
func Control(i service.Instance) resolver.Control {
	return resolver.Control{Socket: filepath.Join(i.RunDir, controlFile)}
}

// readyPause is the time between two questions whether the server serves, which takes it some 50 ms.
const readyPause = 10 * time.Millisecond

// ready waits until an instance answers phones.
func ready(ctx context.Context, i service.Instance) error {
	tick := time.NewTicker(readyPause)
	defer tick.Stop()
	for {
		status, err := Control(i).Status(ctx)
		if err == nil && status.Serving {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("it listens and does not know what is protected: %w", errdefs.ErrFailedPrecondition)
			}
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}
