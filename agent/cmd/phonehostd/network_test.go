package main

import (
	"strings"
	"testing"

	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/network"
)

// TestPoliciesNotInForce: the warning names policies and reasons, and clears.
func TestPoliciesNotInForce(t *testing.T) {
	a := &agent{health: health.New(nil)}
	a.onPolicies([]network.Policy{{Name: "school", Problem: "no memory"}, {Name: "web", Problem: "cannot be read: line 1"}})
	standing := a.health.List()
	if len(standing) != 1 || standing[0].Name != warnPolicies || standing[0].Severity != health.Warning ||
		!strings.Contains(standing[0].Message, "school (no memory); web (cannot be read: line 1)") {
		t.Errorf("standing: %+v", standing)
	}
	a.onPolicies(make([]network.Policy, 7))
	if standing = a.health.List(); len(standing) != 1 || !strings.Contains(standing[0].Message, "; and 2 more") {
		t.Errorf("standing with seven: %+v", standing)
	}
	if a.onPolicies(nil); len(a.health.List()) != 0 {
		t.Errorf("standing: %+v", a.health.List())
	}
}
