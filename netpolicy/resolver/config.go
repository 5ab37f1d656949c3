package resolver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Config is the configuration of the process, a file of JSON that the agent writes. Paths are absolute, as the process sees them.
type Config struct {
	// Listen are the addresses and ports to listen on, the gateways': they need not be on any link yet.
	Listen []netip.AddrPort `json:"listen"`
	// Pins is the Dir of the datapath's Config.
	Pins string `json:"pins"`
	// State is the directory that WriteState writes.
	State string `json:"state"`
	// Control is the path of the Unix socket for Client; empty: there is none.
	Control string `json:"control,omitempty"`
	// ResolvConf is read for upstreams where State names none.
	ResolvConf string `json:"resolv_conf"`
	// Version is what Status says, for whoever waits for the server of a certain version.
	Version string `json:"version,omitempty"`
}

// maxListen bounds Listen: there are two gateways.
const maxListen = 16

// Validate names the first field that is wrong; the error is of class errdefs.ErrInvalidArgument.
func (c Config) Validate() error {
	if len(c.Listen) == 0 || len(c.Listen) > maxListen {
		return fmt.Errorf("listen: has %d addresses; 1 to %d are wanted: %w", len(c.Listen), maxListen, errdefs.ErrInvalidArgument)
	}
	for _, a := range c.Listen {
		if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().Is4In6() || a.Addr().Zone() != "" || a.Port() == 0 {
			return fmt.Errorf("listen: %q is no address of a gateway with a port, as 10.213.0.1:53: %w", a, errdefs.ErrInvalidArgument)
		}
	}
	for _, p := range []struct{ key, path string }{{"pins", c.Pins}, {"state", c.State}, {"resolv_conf", c.ResolvConf}, {"control", c.Control}} {
		if (p.key != "control" || p.path != "") && !filepath.IsAbs(p.path) {
			return fmt.Errorf("%s: %q is no absolute path: %w", p.key, p.path, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// LoadConfig reads and checks a configuration file; a key that is not known is an error.
func LoadConfig(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read the name server's configuration: %w", err)
	}
	var c Config
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// JSON is the configuration as LoadConfig reads it.
func (c Config) JSON() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("name server: %w", err)
	}
	return json.MarshalIndent(c, "", "  ")
}
