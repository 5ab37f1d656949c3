// Package config reads the agent's configuration file.
//
// The file is TOML, decoded strictly: a key that is not known, a value of the wrong type and a value out of range are errors
// that name the line or the key. Every key has a default; Default holds them, and the commented file that Example returns says
// the same (a test compares the two). The package only reads: it opens nothing that the configuration names.
package config

import (
	"net/netip"
	"time"
)

// DefaultPath is where the agent looks for its configuration file when none is named.
const DefaultPath = "/etc/phonehost/phonehostd.toml"

// Config is the whole configuration.
type Config struct {
	// Name is the agent's name on the Unix socket and in logs; empty means the host's name. On the network the certificate's
	// name counts.
	Name string `toml:"name"`
	// StateDir holds what must outlive the host's restart: the database and the phones' data volumes.
	StateDir string `toml:"state_dir"`
	// RunDir holds sockets and network namespaces.
	RunDir string `toml:"run_dir"`
	// LogDir holds the output of guests and displays.
	LogDir string `toml:"log_dir"`

	Log        Log        `toml:"log"`
	Containerd Containerd `toml:"containerd"`
	Runtime    Runtime    `toml:"runtime"`
	Display    Display    `toml:"display"`
	Network    Network    `toml:"network"`
	Socket     Socket     `toml:"socket"`
	TLS        TLS        `toml:"tls"`
	Dial       []Dial     `toml:"dial"`
	Access     []Access   `toml:"access"`
	Metrics    Metrics    `toml:"metrics"`
	Limits     Limits     `toml:"limits"`
}

// Log says how the agent writes its own log, on standard error.
type Log struct {
	// Level is the least level written: debug, info, warn or error.
	Level string `toml:"level"`
	// Format is text or json.
	Format string `toml:"format"`
}

// Containerd says where containerd is.
type Containerd struct {
	// Address is the path of containerd's socket.
	Address string `toml:"address"`
	// Namespace is the containerd namespace that holds all that the agent makes.
	Namespace string `toml:"namespace"`
}

// Runtime says how containers are made.
type Runtime struct {
	// CgroupRoot is the cgroup under which every phone gets its own, an absolute path within the hierarchy. Empty means the one that
	// phonehost-phones.service holds under systemd, and /phonehost where there is none. Running phones move with their next start.
	CgroupRoot string `toml:"cgroup_root"`
	// LogBinary is the path of phone-log, the log writer of every container.
	LogBinary string `toml:"log_binary"`
	// Snapshotter is containerd's snapshotter for root file systems; empty means containerd's default.
	Snapshotter string `toml:"snapshotter"`
	// RenderNode is the GPU's render node that guests draw with, such as /dev/dri/renderD128; empty: they draw by CPU.
	RenderNode string `toml:"render_node"`
	// AllowUnguarded starts guests that may mount (profiles redroid and waydroid) also where the kernel cannot keep them from the host.
	AllowUnguarded bool `toml:"allow_unguarded"`
}

// Display says how displays are run.
type Display struct {
	// Binary is the path of phone-display.
	Binary string `toml:"binary"`
	// UIDBase is the first of the uids that displays run as; a phone's slot is added to it.
	UIDBase uint32 `toml:"uid_base"`
	// Args are added to the display's command line.
	Args []string `toml:"args"`
}

// Network says how phones reach the rest of the world.
type Network struct {
	// Enabled gives each phone a network; else it has loopback only.
	Enabled bool `toml:"enabled"`
	// IPv4Pool holds the phones' IPv4 addresses; its first is the gateway's.
	IPv4Pool netip.Prefix `toml:"ipv4_pool"`
	// IPv6Pool holds their IPv6 addresses; the zero value, an empty string in the file, means that they have none.
	IPv6Pool netip.Prefix `toml:"ipv6_pool"`
	// Uplink is the interface by which phones reach others; empty means that of the default route.
	Uplink string `toml:"uplink"`
	// Masquerade4 and Masquerade6 hide the pools behind the host's own addresses; false where they are routed to the host.
	Masquerade4 bool `toml:"masquerade4"`
	Masquerade6 bool `toml:"masquerade6"`
	// NameServers are asked for the phones, ADDRESS or ADDRESS:PORT; none means those of the host.
	NameServers []string `toml:"name_servers"`
	// MaxFlows bounds the live flows of each phone.
	MaxFlows uint32 `toml:"max_flows"`
	// FlowSample has one flow of so many watched (WatchFlows); 0 means none.
	FlowSample uint32 `toml:"flow_sample"`
}

// Upstreams returns the name servers with their ports. They have been checked.
func (n Network) Upstreams() []netip.AddrPort {
	all := make([]netip.AddrPort, 0, len(n.NameServers))
	for _, text := range n.NameServers {
		if a, err := nameServer(text); err == nil {
			all = append(all, a)
		}
	}
	return all
}

// Socket is the Unix door.
type Socket struct {
	// Path is where the socket is made, with mode 0660.
	Path string `toml:"path"`
	// Group owns the socket; without such a group only root may connect.
	Group string `toml:"group"`
}

// TLS is the identity that both network doors use, and the door that listens.
type TLS struct {
	// Listen is the address of the listening door, HOST:PORT; empty means that the agent does not listen.
	Listen string `toml:"listen"`
	// Cert, Key and CA are PEM files: the agent's certificate and key, and the authorities that vouch for control planes.
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	CA   string `toml:"ca"`
}

// Dial is one control plane that the agent dials and stays connected to.
type Dial struct {
	// Address is the control plane's HOST:PORT.
	Address string `toml:"address"`
	// Name is the client name that its certificate must carry, NAME of phonehost://client/NAME; empty means any.
	Name string `toml:"name"`
}

// Access gives a role to those that one of its other keys names. Exactly one of Identity, User and Group is set.
type Access struct {
	// Identity is a certificate's identity: "client/NAME".
	Identity string `toml:"identity"`
	// User is the name or number of a user of this host.
	User string `toml:"user"`
	// Group is the name or number of a group of this host.
	Group string `toml:"group"`
	// Role is viewer, operator or admin.
	Role string `toml:"role"`
}

// Metrics is the Prometheus endpoint.
type Metrics struct {
	// Socket is the path of the Unix socket that serves /metrics over HTTP; empty means no endpoint.
	Socket string `toml:"socket"`
}

// Limits are times and reserves.
type Limits struct {
	// BootTimeout is how long a guest may take from the start of its init to boot completed.
	BootTimeout Duration `toml:"boot_timeout"`
	// Grace is how long a guest may take to shut down where the request does not say.
	Grace Duration `toml:"grace"`
	// DiskReserveBytes is how much of the file system below StateDir must stay free: below it phones are not created, started
	// or imported.
	DiskReserveBytes uint64 `toml:"disk_reserve_bytes"`
	// ConcurrentBoots is how many phones boot at once; 0 means as many as the host has cores, and at least 2.
	ConcurrentBoots uint32 `toml:"concurrent_boots"`
}

// Duration is a time span in Go's words, such as "120s", as it stands in the file.
type Duration time.Duration

// UnmarshalText reads a time span.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes a time span.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Default returns the configuration that an empty file means.
func Default() Config {
	return Config{
		StateDir:   "/var/lib/phonehost",
		RunDir:     "/run/phonehost",
		LogDir:     "/var/log/phonehost",
		Log:        Log{Level: "info", Format: "text"},
		Containerd: Containerd{Address: "/run/containerd/containerd.sock", Namespace: "phonehost"},
		Runtime:    Runtime{LogBinary: "/usr/local/bin/phone-log"},
		Display:    Display{Binary: "/usr/local/bin/phone-display", UIDBase: 2000000, Args: []string{}},
		Network: Network{
			Enabled: true, IPv4Pool: netip.MustParsePrefix("10.213.0.0/16"), IPv6Pool: netip.MustParsePrefix("fd70:686f:6e65::/64"),
			Masquerade4: true, Masquerade6: true, NameServers: []string{}, MaxFlows: 4096, FlowSample: 16,
		},
		Socket: Socket{Path: "/run/phonehost/phonehostd.sock", Group: "phonehost"},
		Dial:   []Dial{},
		Access: []Access{
			{User: "root", Role: "admin"},
			{Group: "phonehost", Role: "operator"},
		},
		Metrics: Metrics{Socket: "/run/phonehost/metrics.sock"},
		Limits: Limits{
			BootTimeout:      Duration(120 * time.Second),
			Grace:            Duration(20 * time.Second),
			DiskReserveBytes: 2 << 30,
		},
	}
}
