package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/phonehost/phonehost/agent/controlplane"
	"github.com/phonehost/phonehost/agent/hub"
	"github.com/phonehost/phonehost/agent/tunnel"
)

type hubCmd struct {
	Listen string   `required:"" placeholder:"ADDR" help:"Where agents and clients dial, such as :7443."`
	Allow  []string `required:"" placeholder:"NAME" help:"Client that may use the hub, by the NAME in its certificate; may be repeated. * is every client with a good certificate."`
}

// Help is the detailed help.
func (c *hubCmd) Help() string {
	return "Needs --cert and --key of a client identity, which is what the hub is to agents, and --ca. Agents come by " +
		"themselves: name the hub in [dial] of their configuration. Reach them with `phonectl --hub ADDR --agent NAME ...`. " +
		"Runs until Ctrl-C, logs on the standard error."
}

func (c *hubCmd) Run(ctx context.Context, a *app) error {
	g := a.globals
	if g.Cert == "" || g.Key == "" || g.CA == "" {
		return usagef("hub needs --cert, --key and --ca; for a trial: `phonectl pki init`, `phonectl pki issue client/hub`")
	}
	logger := slog.New(slog.NewTextHandler(a.stderr, nil))
	certs, err := tunnel.LoadCertificates(tunnel.CertificateFiles{Cert: g.Cert, Key: g.Key, CA: g.CA}, logger)
	if err != nil {
		return err
	}
	h, err := hub.New(hub.Config{
		Certificates: certs, Allow: c.Allow, Logger: logger,
		Watcher: controlplane.Watcher{
			Connected: func(agent *controlplane.Agent) { logger.Info("agent connected", "agent", agent.Name()) },
			Disconnected: func(name string, cause error) {
				logger.Info("agent disconnected", "agent", name, "cause", cause)
			},
		},
	})
	if err != nil {
		return err
	}
	port, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	logger.Info("hub listens", "addr", port.Addr().String(), "identity", certs.Identity().String())
	return h.Serve(ctx, port)
}
