package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

func mustParse(t testing.TB, text string) policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The numbers are sha256sum's: what is pinned in the kernel by one version is read by the next.
func TestNameID(t *testing.T) {
	for name, want := range map[string]uint64{
		"*.example.com": 0xe675ec168f7a2847,
		"example.com":   0xa5b9afeef6a679a3,
		"EXAMPLE.com":   0xa5b9afeef6a679a3,
		"*":             0x377fb1ebc0884868,
	} {
		if got := policy.NameID(name); got != want {
			t.Errorf("the id of %s is %#x; want %#x", name, got, want)
		}
	}
}

func TestMatchNames(t *testing.T) {
	p := mustParse(t, `
allow egress tcp any 80
deny  egress tcp *.ads.example
allow egress tcp *.example 443
allow egress udp *.example 443
allow egress tcp example
deny  egress tcp www.example
allow egress icmp *
`)
	for name, want := range map[string][]string{
		"example":         {"example", "*"},
		"www.example":     {"*.example", "www.example", "*"},
		"WWW.Example.":    {"*.example", "www.example", "*"},
		"ads.example":     {"*.example", "*"},
		"a.b.ads.example": {"*.ads.example", "*.example", "*"},
		"badexample":      {"*"},
		"example.test":    {"*"},
		".":               nil,
	} {
		if diff := cmp.Diff(want, p.MatchNames(name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if got := mustParse(t, "allow egress any 192.0.2.0/24").MatchNames("example"); len(got) != 0 {
		t.Errorf("a policy without names has %q for one", got)
	}
}

func TestResolves(t *testing.T) {
	const rules = `
deny  egress any  any
deny  egress udp  video.example 443
deny  egress tcp  video.example 80
deny  egress any  *.ads.example
allow egress tcp  *.example 443
deny  egress any  late.example
deny  egress icmp ping.test
`
	for _, tt := range []struct {
		defaults, name string
		ok             bool
		rule           int
	}{
		{"deny-all", "www.example", true, 4},
		{"deny-all", "Video.Example.", true, 4},
		{"deny-all", "x.ads.example", false, 3},
		{"deny-all", "ads.example", true, 4},
		{"deny-all", "late.example", true, 4},
		{"deny-all", "example", false, -1},
		{"deny-all", "ping.test", false, -1},
		{"allow-internet", "x.ads.example", false, 3},
		{"allow-internet", "www.example", true, 4},
		{"allow-internet", "example", true, -1},
		{"allow-internet", "ping.test", true, -1},
	} {
		ok, rule := mustParse(t, "default "+tt.defaults+rules).Resolves(tt.name)
		if ok != tt.ok || rule != tt.rule {
			t.Errorf("%s under %s: %v by rule %d; want %v by rule %d", tt.name, tt.defaults, ok, rule, tt.ok, tt.rule)
		}
	}
}
