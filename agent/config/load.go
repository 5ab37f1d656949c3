package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

//go:embed default.toml
var example string

// Example returns the commented default configuration file.
func Example() string { return example }

// Load reads and checks a configuration file.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	cfg, err := Parse(data)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// Parse reads and checks the text of a configuration file. Errors are of class ErrInvalidArgument; they name the line where the text
// is at fault, else the key. Lists of the file replace the defaults.
func Parse(data []byte) (Config, error) {
	cfg := Default()
	access, dial, args, servers := cfg.Access, cfg.Dial, cfg.Display.Args, cfg.Network.NameServers
	cfg.Access, cfg.Dial, cfg.Display.Args, cfg.Network.NameServers = nil, nil, nil, nil
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&cfg)
	if err != nil {
		return Config{}, describe(err)
	}
	if cfg.Access == nil {
		cfg.Access = access
	}
	if cfg.Dial == nil {
		cfg.Dial = dial
	}
	if cfg.Display.Args == nil {
		cfg.Display.Args = args
	}
	if cfg.Network.NameServers == nil {
		cfg.Network.NameServers = servers
	}
	return cfg, cfg.check()
}

// describe puts line and key into a decoder's error.
func describe(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		var keys []string
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			keys = append(keys, fmt.Sprintf("line %d: key %q is not known", line, strings.Join(e.Key(), ".")))
		}
		return fmt.Errorf("%s: %w", strings.Join(keys, "; "), errdefs.ErrInvalidArgument)
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, column := wrong.Position()
		if key := strings.Join(wrong.Key(), "."); key != "" {
			return fmt.Errorf("line %d: key %q: %s: %w", line, key, strings.TrimPrefix(wrong.Error(), "toml: "), errdefs.ErrInvalidArgument)
		}
		return fmt.Errorf("line %d, column %d: %s: %w", line, column, strings.TrimPrefix(wrong.Error(), "toml: "), errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
}

// check refuses values that are out of range or contradict each other.
func (c *Config) check() error {
	for _, check := range []func() error{c.checkPaths, c.checkWords, c.checkDoors, c.checkNetwork, c.checkAccess, c.checkLimits} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// invalid is the error for a key whose value is wrong.
func invalid(key, format string, args ...any) error {
	return fmt.Errorf("key %q: %s: %w", key, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

func (c *Config) checkPaths() error {
	paths := []struct {
		key, path string
		optional  bool
	}{
		{"state_dir", c.StateDir, false},
		{"run_dir", c.RunDir, false},
		{"log_dir", c.LogDir, false},
		{"containerd.address", c.Containerd.Address, false},
		{"runtime.cgroup_root", c.Runtime.CgroupRoot, true},
		{"runtime.log_binary", c.Runtime.LogBinary, false},
		{"runtime.render_node", c.Runtime.RenderNode, true},
		{"display.binary", c.Display.Binary, false},
		{"socket.path", c.Socket.Path, false},
		{"metrics.socket", c.Metrics.Socket, true},
		{"tls.cert", c.TLS.Cert, true},
		{"tls.key", c.TLS.Key, true},
		{"tls.ca", c.TLS.CA, true},
	}
	for _, p := range paths {
		if p.path == "" && p.optional {
			continue
		}
		if !filepath.IsAbs(p.path) || filepath.Clean(p.path) != p.path {
			return invalid(p.key, "%q must be an absolute path without . or .. in it", p.path)
		}
	}
	if c.Runtime.CgroupRoot == "/" {
		return invalid("runtime.cgroup_root", "must not be the root of the hierarchy")
	}
	return nil
}

func (c *Config) checkWords() error {
	if levels := []string{"debug", "info", "warn", "error"}; !slices.Contains(levels, c.Log.Level) {
		return invalid("log.level", "%q must be one of %s", c.Log.Level, strings.Join(levels, ", "))
	}
	if formats := []string{"text", "json"}; !slices.Contains(formats, c.Log.Format) {
		return invalid("log.format", "%q must be one of %s", c.Log.Format, strings.Join(formats, ", "))
	}
	if c.Containerd.Namespace == "" {
		return invalid("containerd.namespace", "must not be empty")
	}
	if c.Display.UIDBase < 1000 || c.Display.UIDBase > 1<<31 {
		return invalid("display.uid_base", "%d must be 1000..2147483648", c.Display.UIDBase)
	}
	return nil
}

func (c *Config) checkDoors() error {
	if c.TLS.Listen != "" {
		if err := checkAddress("tls.listen", c.TLS.Listen); err != nil {
			return err
		}
	}
	for i, d := range c.Dial {
		if err := checkAddress(fmt.Sprintf("dial[%d].address", i), d.Address); err != nil {
			return err
		}
	}
	if c.TLS.Listen == "" && len(c.Dial) == 0 {
		return nil
	}
	for _, f := range []struct{ key, path string }{{"tls.cert", c.TLS.Cert}, {"tls.key", c.TLS.Key}, {"tls.ca", c.TLS.CA}} {
		if f.path == "" {
			return invalid(f.key, "is needed by the network doors (tls.listen, dial)")
		}
	}
	return nil
}

func checkAddress(key, address string) error {
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return invalid(key, "%q must be HOST:PORT", address)
	}
	return nil
}

func (c *Config) checkAccess() error {
	seen := map[string]bool{}
	for i, a := range c.Access {
		key := fmt.Sprintf("access[%d]", i)
		if roles := []string{"viewer", "operator", "admin"}; !slices.Contains(roles, a.Role) {
			return invalid(key+".role", "%q must be one of %s", a.Role, strings.Join(roles, ", "))
		}
		who := a.Who()
		if who == "" {
			return invalid(key, "must have exactly one of identity, user and group")
		}
		if name, isClient := strings.CutPrefix(a.Identity, "client/"); a.Identity != "" && (!isClient || name == "") {
			return invalid(key+".identity", "%q must be client/NAME", a.Identity)
		}
		if seen[who] {
			return invalid(key, "%s has an entry before", who)
		}
		seen[who] = true
	}
	return nil
}

// Who returns whom the entry names as "client/NAME", "user/NAME" or "group/NAME"; "" unless exactly one key is set.
func (a Access) Who() string {
	switch {
	case a.Identity != "" && a.User == "" && a.Group == "":
		return a.Identity
	case a.Identity == "" && a.User != "" && a.Group == "":
		return "user/" + a.User
	case a.Identity == "" && a.User == "" && a.Group != "":
		return "group/" + a.Group
	}
	return ""
}

func (c *Config) checkLimits() error {
	if c.Limits.BootTimeout < Duration(1e9) {
		return invalid("limits.boot_timeout", "must be at least 1s")
	}
	if c.Limits.Grace < 0 || c.Limits.Grace > Duration(600e9) {
		return invalid("limits.grace", "must be 0s..10m")
	}
	if c.Limits.ConcurrentBoots > 10000 {
		return invalid("limits.concurrent_boots", "%d must be 0..10000", c.Limits.ConcurrentBoots)
	}
	return nil
}
