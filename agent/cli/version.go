package cli

import (
	"context"
	"fmt"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type versionCmd struct {
	Client bool `help:"Only phonectl's own version; asks no agent."`
}

// versions is what version prints as JSON.
type versions struct {
	Client string `json:"client"`
	Agent  string `json:"agent,omitempty"`
}

func (c *versionCmd) Run(ctx context.Context, a *app) error {
	v := versions{Client: a.version}
	var unreached error
	if !c.Client {
		v.Agent, unreached = a.agentVersion(ctx)
	}
	if a.json() {
		if err := render.Value(a.stdout, v); err != nil {
			return err
		}
		return unreached
	}
	text := "phonectl    " + v.Client + "\n"
	if v.Agent != "" {
		text += "phonehostd  " + render.Printable(v.Agent) + "\n"
	}
	if _, err := fmt.Fprint(a.stdout, text); err != nil {
		return err
	}
	if v.Agent != "" && v.Agent != v.Client {
		a.sayf("warning: phonectl and the agent have different versions; install the same package on both")
	}
	return unreached
}

func (a *app) agentVersion(ctx context.Context) (string, error) {
	host, err := a.host(ctx)
	if err != nil {
		return "", err
	}
	answer, err := host.GetHost(ctx, &phonehostv1.GetHostRequest{})
	if err != nil {
		return "", err
	}
	return answer.GetHost().GetVersion(), nil
}
