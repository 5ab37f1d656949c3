package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// expiryWarning is how long before its end a certificate is warned of.
const expiryWarning = 30 * 24 * time.Hour

// checkCertificates reads the files of the network doors as the doors do.
func checkCertificates(_ context.Context, h *Host) Finding {
	if h.Cert == "" && h.Key == "" && h.CA == "" {
		return ok("no certificates are configured: the network doors are closed")
	}
	const remedy = "renew the agent's certificate and replace the files: they are read again by themselves"
	var pems [3][]byte
	for i, name := range []string{h.Cert, h.Key, h.CA} {
		if name == "" {
			return bad("set cert, key and ca of [tls] in phonehostd.toml", "only some of the certificate files are configured")
		}
		b, err := fs.ReadFile(h.Root, strings.TrimPrefix(path.Clean(name), "/"))
		if err != nil {
			return bad("phonectl pki issue, or put the file there", "%v", err)
		}
		pems[i] = b
	}
	pair, err := tls.X509KeyPair(pems[0], pems[1])
	if err != nil {
		return bad(remedy, "%s and %s: %v", h.Cert, h.Key, err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return bad(remedy, "%s: %v", h.Cert, err)
	}
	authorities, err := parseAll(pems[2])
	if err != nil {
		return bad("put the authorities' certificates (PEM) into "+h.CA, "%s: %v", h.CA, err)
	}
	worst := validity(h.Cert, leaf, h.Now(), remedy)
	for _, ca := range authorities {
		if f := validity(h.CA, ca, h.Now(), "replace the authority's certificate before it ends, in every peer"); f.Severity > worst.Severity {
			worst = f
		}
	}
	return worst
}

// parseAll returns all certificates of a PEM file.
func parseAll(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no certificate in the file")
	}
	return all, nil
}

// validity judges the time that a certificate is good for.
func validity(file string, c *x509.Certificate, now time.Time, remedy string) Finding {
	left := c.NotAfter.Sub(now)
	switch end := c.NotAfter.UTC().Format(time.DateOnly); {
	case now.Before(c.NotBefore):
		return bad("check the clock", "%s is not valid before %s", file, c.NotBefore.UTC().Format(time.DateTime))
	case left <= 0:
		return bad(remedy, "%s has expired on %s", file, end)
	case left < expiryWarning:
		return warn(remedy, "%s expires on %s, in %d days", file, end, int(left.Hours()/24))
	default:
		return ok("%s is valid until %s", file, end)
	}
}

// unit returns the systemd service that the agent runs in, or empty. systemd gives every service an INVOCATION_ID, which
// shells in a service's process tree inherit; the service's cgroup tells them apart.
func unit(root fs.FS, invocation string) string {
	if invocation == "" {
		return ""
	}
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if name := path.Base(line); strings.HasSuffix(name, ".service") {
			return name
		}
	}
	return ""
}

// checkSystemd looks for options of the agent's unit that would end phones with it, or hide its mounts.
func checkSystemd(ctx context.Context, h *Host) Finding {
	if h.Unit == "" {
		return ok("the agent does not run in a systemd unit")
	}
	same, err := h.SameMounts()
	if err != nil {
		return warn("", "mount namespaces cannot be compared: %v", err)
	}
	if !same {
		return bad("remove ProtectSystem, PrivateTmp, PrivateDevices, ProtectKernelTunables and their like from "+h.Unit,
			"%s gives the agent mounts of its own: network namespaces that it names are not seen by containerd", h.Unit)
	}
	out, err := h.Command(ctx, "systemctl", "show", "--property=KillMode", h.Unit)
	if err != nil {
		return warn("", "%s cannot be asked for: %v", h.Unit, err)
	}
	if mode := strings.TrimSpace(string(out)); mode != "KillMode=process" {
		return bad("use the unit that comes with phonehost (KillMode=process)", "%s has %s: stopping it kills what outlives the agent", h.Unit, mode)
	}
	return ok("%s has KillMode=process and the host's mounts", h.Unit)
}
