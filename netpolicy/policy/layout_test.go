package policy_test

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// The numbers that this package shares with the kernel's programs are those of the header.
func TestLayout(t *testing.T) {
	header, err := os.ReadFile("../datapath/bpf/layout.h")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"EGRESS": int(policy.Egress), "INGRESS": int(policy.Ingress),
		"POLICY_ALLOW": policy.FlagAllow, "POLICY_NAMES": policy.FlagNames,
		"MAX_NAMES": policy.MaxNames,
		"CLASS_TCP": 0, "CLASS_UDP": 1, "CLASS_ICMP": 2,
	} {
		m := regexp.MustCompile(`\b` + name + `(?: =)? (\d+)`).FindSubmatch(header)
		if m == nil {
			t.Errorf("layout.h does not say what %s is", name)
			continue
		}
		if got, err := strconv.Atoi(string(m[1])); err != nil || got != want {
			t.Errorf("layout.h has %s = %s, this package %d", name, m[1], want)
		}
	}
}
