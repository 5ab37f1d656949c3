package cli

import (
	"context"

	"github.com/phonehost/phonehost/agent/cli/render"
	"github.com/phonehost/phonehost/agent/client"
	"github.com/phonehost/phonehost/agent/hub"
)

type agentsCmd struct{}

func (c *agentsCmd) Run(ctx context.Context, a *app) error {
	if a.globals.Hub == "" {
		return usagef("agents needs --hub HOST:PORT, or $PHONEHOST_HUB")
	}
	agents, err := client.ListAgents(ctx, a.options())
	if err != nil {
		return err
	}
	if a.json() {
		return render.Value(a.stdout, struct {
			Agents []hub.Agent `json:"agents"`
		}{agents})
	}
	if len(agents) == 0 {
		a.sayf("no agents are connected to %s", a.globals.Hub)
		return nil
	}
	return render.Agents(a.stdout, agents, a.now())
}
