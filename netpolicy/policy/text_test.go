package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

var byValue = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

const school = `# what a school's phones may do
default deny-all

allow egress tcp *.example.com 443     # the school's own
allow	egress	any	192.0.2.0/24
  allow egress udp any 3478,5000-5999
deny  egress icmp any
allow ingress tcp 2001:db8::7/128 5555
`

var schoolPolicy = policy.Policy{
	Default: policy.DenyAll,
	Rules: []policy.Rule{
		{Action: policy.Allow, Protocol: policy.TCP, Name: "*.example.com", Ports: []policy.PortRange{{First: 443, Last: 443}}},
		{Action: policy.Allow, CIDR: netip.MustParsePrefix("192.0.2.0/24")},
		{Action: policy.Allow, Protocol: policy.UDP, Ports: []policy.PortRange{{First: 3478, Last: 3478}, {First: 5000, Last: 5999}}},
		{Action: policy.Deny, Protocol: policy.ICMP},
		{Action: policy.Allow, Direction: policy.Ingress, Protocol: policy.TCP, CIDR: netip.MustParsePrefix("2001:db8::7/128"), Ports: []policy.PortRange{{First: 5555, Last: 5555}}},
	},
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       policy.Policy
	}{
		{"nothing", "", policy.Policy{}},
		{"a comment", "# nothing\n\n", policy.Policy{}},
		{"the default alone", "default allow-internet", policy.Policy{}},
		{"a policy", school, schoolPolicy},
		{"lines as another system ends them", strings.ReplaceAll(school, "\n", "\r\n"), schoolPolicy},
		{"the default last", "deny egress any any\ndefault deny-all", policy.Policy{Default: policy.DenyAll, Rules: []policy.Rule{{}}}},
		{"every name", "allow egress tcp * 1-65535", policy.Policy{Rules: []policy.Rule{
			{Action: policy.Allow, Protocol: policy.TCP, Name: "*", Ports: []policy.PortRange{{First: 1, Last: 65535}}},
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := policy.Parse([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, byValue); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFormat(t *testing.T) {
	want := `default deny-all
allow egress  tcp  *.example.com   443
allow egress  any  192.0.2.0/24
allow egress  udp  any             3478,5000-5999
deny  egress  icmp any
allow ingress tcp  2001:db8::7/128 5555
`
	if diff := cmp.Diff(want, string(policy.Format(schoolPolicy))); diff != "" {
		t.Error(diff)
	}
}

func TestParseErrors(t *testing.T) {
	tooMany := strings.Repeat("deny egress tcp any 25\n", policy.MaxRules) + "# one more\ndeny egress tcp any 26\n"
	ports := make([]string, policy.MaxPorts+1)
	for i := range ports {
		ports[i] = fmt.Sprint(1000 + 2*i)
	}
	for _, tt := range []struct {
		text string
		want []string // what the error says
	}{
		{"# fine\n\npermit egress tcp any", []string{"line 3:", `action "permit"`, "deny or allow"}},
		{"Allow egress tcp any", []string{"line 1:", `action "Allow"`}},
		{"allow out tcp any", []string{`direction "out"`, "egress or ingress"}},
		{"allow egress sctp any", []string{`protocol "sctp"`, "any, tcp, udp or icmp"}},
		{"allow egress tcp", []string{`"allow egress tcp"`, "3 words", "ACTION DIRECTION PROTOCOL PEER [PORTS]"}},
		{"allow egress tcp any 80, 443", []string{`"443"`, "a word too much", "commas without blanks"}},
		{"default\n", []string{"line 1:", "allow-internet or deny-all"}},
		{"default deny", []string{`default "deny"`, "allow-internet or deny-all"}},
		{"default deny-all\ndefault deny-all", []string{"line 2:", "line 1 has one"}},

		{"allow egress any 192.0.2.1", []string{`"192.0.2.1"`, "192.0.2.1/32"}},
		{"allow egress any 2001:db8::1", []string{`"2001:db8::1"`, "2001:db8::1/128"}},
		{"allow egress any ::ffff:192.0.2.1", []string{"192.0.2.1/32"}},
		{"allow egress any 192.0.2.1/24", []string{"192.0.2.1/24", "192.0.2.0/24", "192.0.2.1/32"}},
		{"allow egress any 192.0.2.0/33", []string{`"192.0.2.0/33"`, "192.0.2.0/24"}},
		{"allow egress any fe80::%eth0/64", []string{`"fe80::%eth0/64"`}},
		{"allow egress any ::ffff:10.0.0.0/104", []string{"::ffff:10.0.0.0/104", " 10.0.0.0/8"}},
		{"allow egress any ::ffff:0:0/96", []string{" 0.0.0.0/0"}},
		{"allow egress any ::ffff:0:0/64", []string{"IPv4"}},
		{"allow egress any 192.0.2.300", []string{`"192.0.2.300"`, "192.0.2.1/32"}},
		{"allow egress any 10", []string{`"10"`}},

		{"allow egress tcp Example.com 443", []string{`"Example.com"`, "example.com"}},
		{"allow egress tcp example.com.", []string{`"example.com."`, " example.com"}},
		{"allow egress tcp example..com", []string{`"example..com"`, "empty part"}},
		{"allow egress tcp www.*.com", []string{`"www.*.com"`, "*.example.com"}},
		{"allow egress tcp *example.com", []string{`"*example.com"`, "*.example.com"}},
		{"allow egress tcp *.*", []string{`"*.*"`}},
		{"allow egress tcp *.", []string{`"*."`}},
		{"allow egress tcp -a.example", []string{`"-a.example"`}},
		{"allow egress tcp a!b.example", []string{`"a!b.example"`, "'!'"}},
		{"allow egress tcp bücher.example", []string{"bücher.example", "IDNA"}},
		{"allow egress tcp " + strings.Repeat("a", 64) + ".example", []string{"64 characters", "63"}},
		{"allow egress tcp " + strings.Repeat("a.", 126) + "aa", []string{"254 characters", "253"}},
		{"allow ingress tcp example.com", []string{"example.com", "ingress"}},

		{"allow egress any any 80", []string{"tcp and udp"}},
		{"allow egress icmp any 8", []string{"tcp and udp"}},
		{"allow egress tcp any 0", []string{`"0"`, "1..65535"}},
		{"allow egress tcp any 80,65536", []string{`"80,65536"`, `"65536"`}},
		{"allow egress tcp any 90-80", []string{`"90-80"`}},
		{"allow egress tcp any 80,", []string{`"80,"`, `""`}},
		{"allow egress tcp any 1-2-3", []string{`"1-2-3"`}},
		{"allow egress tcp any +80", []string{`"+80"`}},
		{"allow egress tcp any 080", []string{`"080"`}},
		{"allow egress tcp any http", []string{`"http"`, "80,443"}},
		{"allow egress tcp any " + strings.Join(ports, ","), []string{"17 ranges", "16"}},

		{tooMany, []string{"line 10002:", "10000 rules"}},
		{nested(policy.MaxNames+1) + "allow egress any other.test\n", []string{"line 9:", "9 names", "8"}},
		{"allow egress tcp " + strings.Repeat("x", 100_000), []string{"xxx"}},
		{"allow egress tcp any " + strings.Repeat("x", 100_000), []string{"xxx"}},
		{strings.Repeat("x", 100_000), []string{"xxx"}},
	} {
		_, err := policy.Parse([]byte(tt.text))
		if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%.60q: the error is %v; want one of class invalid argument", tt.text, err)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%.60q: the error is\n\t%v\nwhich does not say %q", tt.text, err, want)
			}
		}
		if !strings.HasPrefix(err.Error(), "line ") || len(err.Error()) > 500 {
			t.Errorf("%.60q: the error does not name its line, or is long: %.600v", tt.text, err)
		}
	}
}

// nested is rules with names that all stand for the last of them.
func nested(n int) string {
	var text strings.Builder
	name := "example"
	for range n {
		fmt.Fprintf(&text, "allow egress any *.%s\n", name)
		name = "a." + name
	}
	return text.String()
}

func TestAsManyNamesAsCount(t *testing.T) {
	p, err := policy.Parse([]byte(nested(policy.MaxNames)))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.MatchNames("b.a.a.a.a.a.a.a.example"); len(got) != policy.MaxNames {
		t.Errorf("the name has %q; want all %d", got, policy.MaxNames)
	}
}

func TestParseRule(t *testing.T) {
	for _, want := range schoolPolicy.Rules {
		got, err := policy.ParseRule(" " + want.String() + " # and why")
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got, byValue); diff != "" {
			t.Error(diff)
		}
	}
	for _, text := range []string{"", "# nothing", "default deny-all", "allow egress tcp any 0"} {
		if r, err := policy.ParseRule(text); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: is %v, %v; want an error of class invalid argument", text, r, err)
		}
	}
}

// FuzzParse looks for text that is read and is not the same after it was written and read again, and for errors without a class.
func FuzzParse(f *testing.F) {
	f.Add([]byte(school))
	f.Add([]byte("default deny-all\nallow egress tcp * 1-2,3\ndeny ingress any ::/0\nallow egress any 0.0.0.0/0"))
	f.Add([]byte("allow egress tcp ::ffff:0:0/96 080,-,\x00\xff\ndefault default"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := policy.Parse(text)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%v is not of class invalid argument", err)
			}
			return
		}
		if err := p.Validate(); err != nil {
			t.Errorf("what was parsed is not valid: %v", err)
		}
		roundTrip(t, p)
	})
}

// FuzzFormat writes and reads policies of all kinds.
func FuzzFormat(f *testing.F) {
	f.Add([]byte{})
	for seed := range byte(32) {
		f.Add([]byte{seed, 63, seed})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		roundTrip(t, newSource(b).policy())
	})
}

// roundTrip writes a policy and reads it.
func roundTrip(t *testing.T, p policy.Policy) {
	t.Helper()
	text := policy.Format(p)
	again, err := policy.Parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if diff := cmp.Diff(p, again, byValue); diff != "" {
		t.Errorf("%s\n%s", diff, text)
	}
}

// The policy that docs/netpolicy.md explains is one, and says what the page says of it.
func TestDocumentedPolicy(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "netpolicy.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "```\n# school.policy\n")
	text, _, ended := strings.Cut(text, "```")
	if !found || !ended {
		t.Fatal("the page has no school.policy")
	}
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Rules) != 5 || p.Default != policy.DenyAll {
		t.Errorf("the policy is %+v", p)
	}
	for name, want := range map[string]bool{"www.example.com": true, "example.org": false} {
		if got, _ := p.Resolves(name); got != want {
			t.Errorf("that %s resolves is %t, want %t", name, got, want)
		}
	}
	router := policy.Query{Direction: policy.Egress, Protocol: policy.TCP, Peer: netip.MustParseAddr("192.168.1.10"), Port: 80, ProtectedBits: 120}
	if v := p.Evaluate(router); !v.Allow || v.Protected {
		t.Errorf("a machine of the host's network that a rule names: %+v", v)
	}
}
