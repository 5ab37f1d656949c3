package cli

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type netPolicyCmd struct {
	Put netPolicyPutCmd `cmd:"" help:"Make a policy of a file, or change one; its phones have it at once."`
	Get netPolicyGetCmd `cmd:"" help:"Print a policy as it was put."`
	Ls  netPolicyLsCmd  `cmd:"" help:"List policies."`
	Rm  netPolicyRmCmd  `cmd:"" help:"Remove policies that no phone has."`
}

type netPolicyPutCmd struct {
	File string `arg:"" help:"The policy; - reads the standard input."`
	Name string `placeholder:"NAME" help:"Its name: 1..63 of a-z, 0-9 and hyphens. Default: that of the file, without what follows the first dot."`
}

// Help is the detailed help.
func (c *netPolicyPutCmd) Help() string {
	return "A policy is a text: `default allow-internet` or `default deny-all`, and one rule a line, of which the first that matches decides:\n\n" +
		"ACTION DIRECTION PROTOCOL PEER [PORTS], such as `allow egress tcp *.example.com 443`. A # begins a comment."
}

func (c *netPolicyPutCmd) Run(ctx context.Context, a *app) error {
	name := c.Name
	if name == "" {
		name, _, _ = strings.Cut(filepath.Base(c.File), ".")
	}
	if c.Name == "" && (c.File == "-" || name == "") {
		return usagef("put needs --name NAME: %s has none", c.File)
	}
	file, _, err := openInput(a, c.File)
	if err != nil {
		return err
	}
	defer file.Close()
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	calling, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := networks.PutPolicy(calling)
	if err != nil {
		return about(name, err)
	}
	start := &phonehostv1.PutPolicyRequest{Message: &phonehostv1.PutPolicyRequest_Start{Start: &phonehostv1.PutPolicyStart{Name: name}}}
	if err := sendText(stream, start, file); err != nil {
		return err
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return about(name, err)
	}
	return a.print(answer.GetPolicy(), func(io.Writer) error {
		a.sayf("%s", render.PolicyLine(answer.GetPolicy()))
		return nil
	})
}

// sendText sends a policy until it ends, or the agent has heard enough: why is in the call's answer.
func sendText(stream phonehostv1.NetworkPolicyService_PutPolicyClient, start *phonehostv1.PutPolicyRequest, file io.Reader) error {
	if stream.Send(start) != nil {
		return nil
	}
	buf := make([]byte, chunkBytes)
	for {
		n, err := io.ReadFull(file, buf)
		if n > 0 && stream.Send(&phonehostv1.PutPolicyRequest{Message: &phonehostv1.PutPolicyRequest_Chunk{Chunk: buf[:n]}}) != nil {
			return nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

type netPolicyGetCmd struct {
	Name string `arg:"" name:"policy" help:"The policy."`
}

func (c *netPolicyGetCmd) Run(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	stream, err := networks.GetPolicy(ctx, &phonehostv1.GetPolicyRequest{Name: c.Name})
	if err != nil {
		return about(c.Name, err)
	}
	var policy *phonehostv1.NetworkPolicy
	var text strings.Builder
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return about(c.Name, err)
		}
		if m.GetPolicy() != nil {
			policy = m.GetPolicy()
		}
		text.Write(m.GetChunk())
	}
	if a.json() {
		return render.Value(a.stdout, render.NewPolicyText(policy, text.String()))
	}
	_, err = io.WriteString(a.stdout, text.String())
	return err
}

type netPolicyLsCmd struct{}

func (c *netPolicyLsCmd) Run(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	answer, err := networks.ListPolicies(ctx, &phonehostv1.ListPoliciesRequest{})
	if err != nil {
		return err
	}
	return a.print(answer, func(w io.Writer) error { return render.Policies(w, answer.GetPolicies(), a.now()) })
}

type netPolicyRmCmd struct {
	Names []string `arg:"" name:"policy" help:"The policies."`
}

func (c *netPolicyRmCmd) Run(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	for _, name := range c.Names {
		answer, err := networks.DeletePolicy(ctx, &phonehostv1.DeletePolicyRequest{Name: name})
		if err != nil {
			return about(name, err)
		}
		if err := a.print(answer, func(io.Writer) error { a.sayf("%s: removed", name); return nil }); err != nil {
			return err
		}
	}
	return nil
}
