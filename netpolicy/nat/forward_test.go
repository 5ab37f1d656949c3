package nat_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

func forward(protocol policy.Protocol, listen, to string) nat.Forward {
	phone := netip.MustParseAddrPort(to)
	return nat.Forward{Protocol: protocol, Listen: netip.MustParseAddrPort(listen), Phone: phone.Addr(), Port: phone.Port()}
}

func TestValidate(t *testing.T) {
	n, err := nat.New(nat.Config{Pool4: pool4, Pool6: pool6, Timeouts: times})
	if err != nil {
		t.Fatal(err)
	}
	tcp := func(listen, to string) nat.Forward { return forward(policy.TCP, listen, to) }
	good := tcp("127.0.0.1:5555", "10.213.0.2:5555")
	for _, test := range []struct {
		name     string
		forwards []nat.Forward
		is       func(error) bool // nil: no error
		says     string
	}{
		{"none", nil, nil, ""},
		{"one", []nat.Forward{good}, nil, ""},
		{"both protocols", []nat.Forward{good, forward(policy.UDP, "127.0.0.1:5555", "10.213.0.2:5555")}, nil, ""},
		{"both families", []nat.Forward{tcp("0.0.0.0:5555", "10.213.0.2:5555"), tcp("[::]:5555", "[fd70:686f:6e65::2]:5555")}, nil, ""},
		{"two addresses", []nat.Forward{good, tcp("192.0.2.1:5555", "10.213.0.3:5555")}, nil, ""},
		{"the gateway's address", []nat.Forward{tcp("10.213.0.1:5555", "10.213.0.2:5555")}, nil, ""},
		{"the same twice", []nat.Forward{good, tcp("127.0.0.1:5555", "10.213.0.3:5555")}, errdefs.IsConflict,
			"forward tcp 127.0.0.1:5555 to 10.213.0.3:5555: 127.0.0.1:5555 is taken by the forward tcp 127.0.0.1:5555 to 10.213.0.2:5555"},
		{"all after one", []nat.Forward{good, tcp("0.0.0.0:5555", "10.213.0.3:5555")}, errdefs.IsConflict, "is taken by the forward tcp 127.0.0.1:5555"},
		{"one after all", []nat.Forward{tcp("0.0.0.0:5555", "10.213.0.3:5555"), good}, errdefs.IsConflict, "is taken by the forward tcp 0.0.0.0:5555"},
		{"protocol", []nat.Forward{forward(policy.ICMP, "127.0.0.1:5555", "10.213.0.2:5555")}, errdefs.IsInvalidArgument, "only tcp and udp"},
		{"listening port", []nat.Forward{tcp("127.0.0.1:0", "10.213.0.2:5555")}, errdefs.IsInvalidArgument, "port 0"},
		{"phone's port", []nat.Forward{tcp("127.0.0.1:5555", "10.213.0.2:0")}, errdefs.IsInvalidArgument, "port 0"},
		{"no address", []nat.Forward{{Protocol: policy.TCP, Phone: good.Phone, Port: 1}}, errdefs.IsInvalidArgument, ""},
		{"mapped", []nat.Forward{tcp("[::ffff:127.0.0.1]:5555", "10.213.0.2:5555")}, errdefs.IsInvalidArgument, "no address to listen on"},
		{"zone", []nat.Forward{tcp("[fe80::1%eth0]:5555", "[fd70:686f:6e65::2]:5555")}, errdefs.IsInvalidArgument, "no address to listen on"},
		{"multicast", []nat.Forward{tcp("224.0.0.1:5555", "10.213.0.2:5555")}, errdefs.IsInvalidArgument, "cannot be listened on"},
		{"IPv6 loopback", []nat.Forward{tcp("[::1]:5555", "[fd70:686f:6e65::2]:5555")}, errdefs.IsInvalidArgument, "127.0.0.1 to the phone's IPv4 address can be"},
		{"families", []nat.Forward{tcp("127.0.0.1:5555", "[fd70:686f:6e65::2]:5555")}, errdefs.IsInvalidArgument, "from one family"},
		{"no phone", []nat.Forward{tcp("127.0.0.1:5555", "192.0.2.2:5555")}, errdefs.IsInvalidArgument, "not in the pool 10.213.0.0/16"},
		{"gateway", []nat.Forward{tcp("127.0.0.1:5555", "10.213.0.1:5555")}, errdefs.IsInvalidArgument, "the gateway's"},
		{"a phone's address", []nat.Forward{tcp("10.213.0.3:5555", "10.213.0.2:5555")}, errdefs.IsInvalidArgument, "no address of the host"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := n.Validate(test.forwards)
			if test.is == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !test.is(err) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v; want one of another class, or that says %q", err, test.says)
			}
		})
	}
}

func TestConfigThatCannotBeIsRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  nat.Config
		says string
	}{
		{"no pool", nat.Config{}, "such as 10.213.0.0/16"},
		{"an address in the pool", nat.Config{Pool4: netip.MustParsePrefix("10.213.0.1/16")}, "no prefix of IPv4"},
		{"families", nat.Config{Pool4: pool4, Pool6: pool4}, "no prefix of IPv6"},
		{"IPv6 without a pool", nat.Config{Pool4: pool4, Masquerade6: true}, "without an IPv6 pool"},
		{"long prefix", nat.Config{Pool4: pool4, LinkPrefix: "phones-of-this-host-"}, "longer than"},
		{"many flows", nat.Config{Pool4: pool4, MaxFlows: 1 << 31}, "more than"},
		{"no times", nat.Config{Pool4: pool4}, "whole seconds"},
		{"times", nat.Config{Pool4: pool4, Timeouts: nat.Timeouts{TCPNew: 1}}, "whole seconds"},
	} {
		if _, err := nat.New(test.cfg); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v; want an invalid argument that says %q", test.name, err, test.says)
		}
	}
}
