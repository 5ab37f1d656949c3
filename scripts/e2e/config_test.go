package e2e

import (
	"os"
	"strings"
	"text/template"
)

var configTemplate = template.Must(template.New("config").Parse(`
state_dir = "{{.Dir}}/state"
run_dir   = "{{.Dir}}/run"
log_dir   = "{{.Dir}}/log"

[log]
level = "debug"

[containerd]
address = "{{.Containerd}}"

[runtime]
cgroup_root = "{{.Cgroup}}"
log_binary  = "{{.LogBinary}}"

[display]
binary = "{{.DisplayBinary}}"

[socket]
path = "{{.Socket}}"

[metrics]
socket = "{{.Dir}}/run/metrics.sock"

[tls]
listen = "{{.TLS}}"
cert = "{{.Dir}}/pki/agent-e2e.pem"
key  = "{{.Dir}}/pki/agent-e2e-key.pem"
ca   = "{{.Dir}}/pki/ca.pem"

[network]
{{.Network}}

[limits]
disk_reserve_bytes = 268435456
{{range .Limits}}{{.}}
{{end}}
[[access]]
user = "root"
role = "admin"

[[access]]
identity = "client/fleet"
role = "admin"

[[access]]
identity = "client/watcher"
role = "viewer"

{{.More}}
`))

// writeConfig writes the agent's configuration with more text at its end.
func (h *host) writeConfig(more string) {
	h.t.Helper()
	var text strings.Builder
	err := configTemplate.Execute(&text, map[string]any{
		"Dir":           h.dir,
		"Containerd":    h.containerd.Address,
		"Cgroup":        h.cgroupRoot(),
		"LogBinary":     h.bin.path("phone-log"),
		"DisplayBinary": h.bin.path("phone-display"),
		"Socket":        h.socket(),
		"TLS":           h.tlsAddr,
		"Network":       h.network,
		"Limits":        h.limits,
		"More":          more,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.path("phonehostd.toml"), []byte(text.String()), 0o644); err != nil {
		h.t.Fatal(err)
	}
}
