package cli

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type netCmd struct {
	Policy  netPolicyCmd  `cmd:"" help:"Put, print, list and remove network policies."`
	Assign  netAssignCmd  `cmd:"" help:"Give phones a network policy, at once."`
	Show    netShowCmd    `cmd:"" help:"Show what there is of a phone's network."`
	Flows   netFlowsCmd   `cmd:"" help:"List the live flows of a phone, or watch flows begin and end with -f."`
	Denials netDenialsCmd `cmd:"" help:"Print what was dropped of phones, or what is from now on with -f."`
	Cut     netCutCmd     `cmd:"" help:"Take phones off the network, at once."`
	Restore netRestoreCmd `cmd:"" help:"Let phones that were cut off onto the network again."`
	Limit   netLimitCmd   `cmd:"" help:"Bound what phones send and receive, at once."`
	Test    netTestCmd    `cmd:"" help:"Tell what would become of a connection, and which rule decides."`
	Forward netForwardCmd `cmd:"" help:"Have ports of the host lead to phones."`
}

// networks returns the client of NetworkPolicyService.
func (a *app) networks(ctx context.Context) (phonehostv1.NetworkPolicyServiceClient, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return phonehostv1.NewNetworkPolicyServiceClient(c.Control()), nil
}

// phoneResults says what became of each phone, in the words of done where it went well, and returns an error unless all did.
func (a *app) phoneResults(results []*phonehostv1.PhoneResult, done string) error {
	bad := 0
	for _, r := range results {
		f := r.GetFailure()
		if f == nil {
			if !a.json() {
				a.sayf("%s: %s", r.GetPhoneId(), done)
			}
			continue
		}
		bad++
		a.sayf("%s: %s", r.GetPhoneId(), render.Printable(f.GetMessage()))
		if remedy := remedyFor(codes.Code(f.GetCode()), f.GetReason(), r.GetPhoneId(), nil); remedy != "" {
			a.sayf("  %s: %s", r.GetPhoneId(), remedy)
		}
	}
	if bad > 0 {
		return exitError{code: exitFailed}
	}
	return nil
}

type netAssignCmd struct {
	Policy string   `arg:"" name:"policy" help:"The policy; allow-internet always exists."`
	IDs    []string `arg:"" name:"id" help:"The phones, up to 100."`
}

func (c *netAssignCmd) Run(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	answer, err := networks.AssignPolicy(ctx, &phonehostv1.AssignPolicyRequest{Policy: c.Policy, PhoneIds: c.IDs})
	if err != nil {
		return about(c.Policy, err)
	}
	if err := a.print(answer, func(io.Writer) error { return nil }); err != nil {
		return err
	}
	return a.phoneResults(answer.GetResults(), "has the policy "+c.Policy)
}

type netShowCmd struct {
	ID string `arg:"" help:"The phone."`
}

func (c *netShowCmd) Run(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	answer, err := networks.GetPhoneNetwork(ctx, &phonehostv1.GetPhoneNetworkRequest{PhoneId: c.ID})
	if err != nil {
		return about(c.ID, err)
	}
	return a.print(answer.GetNetwork(), func(w io.Writer) error { return render.Network(w, answer.GetNetwork()) })
}

type netCutCmd struct {
	IDs []string `arg:"" name:"id" help:"The phones, up to 100."`
}

// Help is the detailed help.
func (c *netCutCmd) Help() string {
	return "What is under way ends too. A phone stays cut off, also when it is restarted or reset, until `phonectl net restore`."
}

func (c *netCutCmd) Run(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	answer, err := networks.CutNetwork(ctx, &phonehostv1.CutNetworkRequest{PhoneIds: c.IDs})
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	if err := a.print(answer, func(io.Writer) error { return nil }); err != nil {
		return err
	}
	return a.phoneResults(answer.GetResults(), "cut off the network")
}

type netRestoreCmd struct {
	IDs []string `arg:"" name:"id" help:"The phones, up to 100."`
}

func (c *netRestoreCmd) Run(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	answer, err := networks.RestoreNetwork(ctx, &phonehostv1.RestoreNetworkRequest{PhoneIds: c.IDs})
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	if err := a.print(answer, func(io.Writer) error { return nil }); err != nil {
		return err
	}
	return a.phoneResults(answer.GetResults(), "not cut off the network")
}

type netLimitCmd struct {
	IDs  []string   `arg:"" name:"id" help:"The phones, up to 100."`
	Up   *bandwidth `placeholder:"RATE" help:"Bound of what they send: 10Mbit, 512kbit, or 0 for none."`
	Down *bandwidth `placeholder:"RATE" help:"Bound of what they receive."`
}

func (c *netLimitCmd) Run(ctx context.Context, a *app) error {
	if c.Up == nil && c.Down == nil {
		return usagef("limit needs --up RATE, --down RATE, or both, such as --down 20Mbit")
	}
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	q := &phonehostv1.SetLimitsRequest{PhoneIds: c.IDs, UpBitsPerSecond: (*uint64)(c.Up), DownBitsPerSecond: (*uint64)(c.Down)}
	answer, err := networks.SetLimits(ctx, q)
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	if err := a.print(answer, func(io.Writer) error { return nil }); err != nil {
		return err
	}
	return a.phoneResults(answer.GetResults(), c.words())
}

// words says what the limits are.
func (c *netLimitCmd) words() string {
	switch {
	case c.Down == nil:
		return "up " + render.Bits(uint64(*c.Up))
	case c.Up == nil:
		return "down " + render.Bits(uint64(*c.Down))
	}
	return fmt.Sprintf("up %s, down %s", render.Bits(uint64(*c.Up)), render.Bits(uint64(*c.Down)))
}
