package datapath

import (
	"log/slog"
	"time"

	"fmt"
	"github.com/containerd/errdefs"
)

// Config says where the pins are and how much a phone may have.
type Config struct {
	// Dir is the directory of the pins, on a BPF file system: "/sys/fs/bpf/phonehost/net". Open makes it.
	Dir string
	// MaxPhones bounds the slots of phones, 1..65536 (default 1024), and MaxFlows the live flows of each, 16..1048576 (default 4096). Maps
	// that are there with room for more phones stay; a phone that is there keeps its table of flows.
	MaxPhones, MaxFlows uint32
	// Sample logs one flow of so many; 0: none.
	Sample uint32
	// Timeouts are how long flows live without a packet; the zero value is DefaultTimeouts.
	Timeouts Timeouts
	// Filters attaches by clsact filters also where the kernel has TCX links.
	Filters bool
	// Logger is told what neither is an error nor an answer; default: nothing is logged.
	Logger *slog.Logger
}

// Timeouts are how long flows live without a packet. The kernel's own table of connections (NAT) has to be told the same: then a phone
// never has more entries there than flows here.
type Timeouts struct {
	// TCPNew is for connections that one side alone has spoken on, TCPEstablished for those of both, TCPClosing after the first FIN,
	// TCPClosed after the last or an RST.
	TCPNew, TCPEstablished, TCPClosing, TCPClosed time.Duration
	// UDPNew is for packets of one side alone, UDPEstablished for those of both.
	UDPNew, UDPEstablished time.Duration
	// ICMP is for echo requests. NAT is not told of it (package nat says why): the kernel's own is to be the same.
	ICMP time.Duration
	// Fragment is how long the rest of a fragmented packet may take.
	Fragment time.Duration
}

// DefaultTimeouts has TCP's established connections as RFC 5382, REQ-5, has them at the least, UDP as RFC 4787 would have it, ICMP as the kernel
// does (nf_conntrack_icmp_timeout), and short times for what is no connection yet or any more.
var DefaultTimeouts = Timeouts{
	TCPNew: 20 * time.Second, TCPEstablished: 7440 * time.Second, TCPClosing: 60 * time.Second, TCPClosed: 10 * time.Second,
	UDPNew: 30 * time.Second, UDPEstablished: 180 * time.Second, ICMP: 30 * time.Second, Fragment: 5 * time.Second,
}

// maxPolicies is MAX_POLICIES of layout.h.
const maxPolicies = 1024

// complete fills what was left out and tells what cannot be.
func (c *Config) complete() error {
	if c.MaxPhones == 0 {
		c.MaxPhones = 1024
	}
	if c.MaxFlows == 0 {
		c.MaxFlows = 4096
	}
	if c.Timeouts == (Timeouts{}) {
		c.Timeouts = DefaultTimeouts
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxPhones > 1<<16 {
		return fmt.Errorf("%d phones: at most 65536 have room: %w", c.MaxPhones, errdefs.ErrInvalidArgument)
	}
	if c.MaxFlows < 16 || c.MaxFlows > 1<<20 {
		return fmt.Errorf("%d flows of a phone: 16 to 1048576 are possible: %w", c.MaxFlows, errdefs.ErrInvalidArgument)
	}
	for _, t := range []time.Duration{
		c.Timeouts.TCPNew, c.Timeouts.TCPEstablished, c.Timeouts.TCPClosing, c.Timeouts.TCPClosed, c.Timeouts.UDPNew,
		c.Timeouts.UDPEstablished, c.Timeouts.ICMP, c.Timeouts.Fragment,
	} {
		if t <= 0 {
			return fmt.Errorf("a timeout of %s: set all of them, or none: %w", t, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
