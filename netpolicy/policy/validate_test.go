package policy_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// What the text form cannot say.
func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		p    policy.Policy
		want string
	}{
		{"default", policy.Policy{Default: 2}, "allow-internet"},
		{"action", policy.Policy{Rules: []policy.Rule{{}, {Action: 2}}}, "rule 2: action 2"},
		{"direction", policy.Policy{Rules: []policy.Rule{{Direction: 2}}}, "rule 1: direction 2"},
		{"protocol", policy.Policy{Rules: []policy.Rule{{Protocol: 4}}}, "rule 1: protocol 4"},
		{"name and prefix", policy.Policy{Rules: []policy.Rule{{Name: "a.example", CIDR: netip.MustParsePrefix("192.0.2.0/24")}}}, "two rules"},
		{"a prefix that is none", policy.Policy{Rules: []policy.Rule{{CIDR: netip.PrefixFrom(netip.MustParseAddr("192.0.2.0"), 33)}}}, "rule 1: prefix"},
		{"ports in the wrong order", policy.Policy{Rules: []policy.Rule{{Protocol: policy.TCP, Ports: []policy.PortRange{{First: 2, Last: 1}}}}}, "ports 2-1"},
		{"port 0", policy.Policy{Rules: []policy.Rule{{Protocol: policy.TCP, Ports: []policy.PortRange{{First: 0, Last: 1}}}}}, "ports 0-1"},
		{"rules", policy.Policy{Rules: make([]policy.Rule, policy.MaxRules+1)}, "10001 rules"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.p.Validate()
			if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the error is %v; want one that says %q", err, tt.want)
			}
			if o, err := policy.Compile(tt.p, 1); !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("it compiles to %v, %v", o, err)
			}
		})
	}
	if err := (policy.Policy{Rules: make([]policy.Rule, policy.MaxRules)}).Validate(); err != nil {
		t.Error(err)
	}
}
