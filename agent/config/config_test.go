package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// prefixes has cmp compare pools of addresses.
var prefixes = cmpopts.EquateComparable(netip.Prefix{})

func TestExampleSaysTheDefaults(t *testing.T) {
	cfg, err := Parse([]byte(Example()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), cfg, prefixes); diff != "" {
		t.Errorf("the commented file differs from Default (-default +file):\n%s", diff)
	}
	empty, err := Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), empty, prefixes); diff != "" {
		t.Errorf("an empty file differs from Default (-default +file):\n%s", diff)
	}
}

// TestExampleNamesEveryKey finds keys that were added to Config and forgotten in the commented file: without its values a strict
// decoder finds nothing to miss.
func TestExampleNamesEveryKey(t *testing.T) {
	for _, key := range []string{
		"name", "state_dir", "run_dir", "log_dir", "level", "format", "address", "namespace", "cgroup_root", "log_binary",
		"snapshotter", "binary", "uid_base", "args", "path", "group", "listen", "cert", "key", "ca", "user", "role", "socket",
		"boot_timeout", "grace", "disk_reserve_bytes", "concurrent_boots",
		"enabled", "ipv4_pool", "ipv6_pool", "uplink", "masquerade4", "masquerade6", "name_servers", "max_flows", "flow_sample",
	} {
		if !strings.Contains(Example(), "\n"+key+" = ") {
			t.Errorf("the commented file does not name %q", key)
		}
	}
}

func TestParse(t *testing.T) {
	cfg, err := Parse([]byte(`
state_dir = "/srv/phones"
[tls]
listen = "0.0.0.0:7443"
cert = "/etc/a.pem"
key = "/etc/a-key.pem"
ca = "/etc/ca.pem"
[[dial]]
address = "control:7443"
name = "fleet"
[[access]]
identity = "client/fleet"
role = "admin"
[network]
ipv4_pool = "172.20.0.0/20"
ipv6_pool = ""
uplink = "eth1"
masquerade4 = false
name_servers = ["192.0.2.53", "[2001:db8::53]:5353"]
[limits]
grace = "5s"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.StateDir = "/srv/phones"
	want.TLS = TLS{Listen: "0.0.0.0:7443", Cert: "/etc/a.pem", Key: "/etc/a-key.pem", CA: "/etc/ca.pem"}
	want.Dial = []Dial{{Address: "control:7443", Name: "fleet"}}
	want.Access = []Access{{Identity: "client/fleet", Role: "admin"}}
	want.Limits.Grace = Duration(5 * time.Second)
	want.Network.IPv4Pool, want.Network.IPv6Pool, want.Network.Uplink = netip.MustParsePrefix("172.20.0.0/20"), netip.Prefix{}, "eth1"
	want.Network.Masquerade4, want.Network.NameServers = false, []string{"192.0.2.53", "[2001:db8::53]:5353"}
	if got := cfg.Network.Upstreams(); len(got) != 2 || got[0].String() != "192.0.2.53:53" || got[1].String() != "[2001:db8::53]:5353" {
		t.Errorf("upstreams %v", got)
	}
	if diff := cmp.Diff(want, cfg, prefixes); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "state_dir = \"/s\"\nstat_dir = \"/x\"\n", `line 2: key "stat_dir" is not known`},
		{"unknown key of a section", "[tls]\nlisten = \"\"\nport = 1\n", `line 3: key "tls.port" is not known`},
		{"unknown section", "[doors]\n", `key "doors" is not known`},
		{"two unknown keys", "a = 1\nb = 2\n", `line 2: key "b" is not known`},
		{"wrong type", "[display]\nuid_base = \"x\"\n", `line 2`},
		{"not TOML", "state_dir = \n", `line 1`},
		{"bad duration", "[limits]\ngrace = \"soon\"\n", `line 2`},
		{"relative path", "state_dir = \"state\"\n", `key "state_dir"`},
		{"path with dots", "run_dir = \"/run/../x\"\n", `key "run_dir"`},
		{"no display", "[display]\nbinary = \"\"\n", `key "display.binary"`},
		{"root cgroup", "[runtime]\ncgroup_root = \"/\"\n", `key "runtime.cgroup_root"`},
		{"level", "[log]\nlevel = \"loud\"\n", `key "log.level"`},
		{"format", "[log]\nformat = \"xml\"\n", `key "log.format"`},
		{"namespace", "[containerd]\nnamespace = \"\"\n", `key "containerd.namespace"`},
		{"uid base of system users", "[display]\nuid_base = 0\n", `key "display.uid_base"`},
		{"listen without port", "[tls]\nlisten = \"0.0.0.0\"\n", `key "tls.listen"`},
		{"listen without certificate", "[tls]\nlisten = \":7443\"\n", `key "tls.cert"`},
		{"dial without address", "[[dial]]\nname = \"x\"\n", `key "dial[0].address"`},
		{"dial without certificate", "[[dial]]\naddress = \"h:1\"\n", `key "tls.cert"`},
		{"role", "[[access]]\nuser = \"a\"\nrole = \"king\"\n", `key "access[0].role"`},
		{"access of nobody", "[[access]]\nrole = \"admin\"\n", `key "access[0]"`},
		{"access of two", "[[access]]\nuser = \"a\"\ngroup = \"b\"\nrole = \"admin\"\n", `key "access[0]"`},
		{"access of an agent", "[[access]]\nidentity = \"agent/x\"\nrole = \"admin\"\n", `key "access[0].identity"`},
		{"access twice", "[[access]]\nuser = \"a\"\nrole = \"admin\"\n[[access]]\nuser = \"a\"\nrole = \"viewer\"\n", `key "access[1]"`},
		{"no pool", "[network]\nipv4_pool = \"\"\n", `key "network.ipv4_pool": "" must be`},
		{"no prefix", "[network]\nipv4_pool = \"10.0.0.1\"\n", `line 2`},
		{"IPv6 pool for IPv4", "[network]\nipv4_pool = \"fd00::/64\"\n", `key "network.ipv4_pool"`},
		{"tiny pool", "[network]\nipv4_pool = \"10.0.0.0/31\"\n", `key "network.ipv4_pool"`},
		{"pool with bits behind", "[network]\nipv4_pool = \"10.0.0.1/16\"\n", `it must be 10.0.0.0/16`},
		{"IPv4 pool for IPv6", "[network]\nipv6_pool = \"10.0.0.0/16\"\n", `key "network.ipv6_pool"`},
		{"long uplink", "[network]\nuplink = \"a234567890123456\"\n", `key "network.uplink"`},
		{"name server by name", "[network]\nname_servers = [\"192.0.2.1\", \"dns.example\"]\n", `key "network.name_servers[1]"`},
		{"few flows", "[network]\nmax_flows = 1\n", `key "network.max_flows"`},
		{"unknown key of the network", "[network]\nbridge = \"br0\"\n", `line 2: key "network.bridge" is not known`},
		{"boot timeout", "[limits]\nboot_timeout = \"1ms\"\n", `key "limits.boot_timeout"`},
		{"grace", "[limits]\ngrace = \"11m\"\n", `key "limits.grace"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error is %v, want one that says %s", err, tt.want)
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v has not the class ErrInvalidArgument", err)
			}
		})
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.toml")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error of a missing file is %v", err)
	}
	if err := os.WriteFile(path, []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path+": line 1") {
		t.Errorf("error of a wrong file is %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(Example()))
	f.Add([]byte("[[access]]\nuser = \"a\"\nrole = \"admin\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse(data)
		if err != nil {
			return
		}
		if err := cfg.check(); err != nil {
			t.Errorf("Parse let through what check refuses: %v", err)
		}
	})
}
