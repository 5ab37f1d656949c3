package cli

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type netForwardCmd struct {
	Add netForwardAddCmd `cmd:"" help:"Have a port of the host lead to a phone, past its policy."`
	Rm  netForwardRmCmd  `cmd:"" help:"End that."`
	Ls  netForwardLsCmd  `cmd:"" help:"List which ports lead to phones."`
}

// forward is a forward on the command line: "127.0.0.1:6001:5555", "6001:5555", "[2001:db8::1]:53:53/udp".
type forward struct{ spec *phonehostv1.Forward }

// Decode makes forward a kong value.
func (f *forward) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("forward", &text); err != nil {
		return err
	}
	spec, err := parseForward(text)
	f.spec = spec
	return err
}

// parseForward reads a forward.
func parseForward(text string) (*phonehostv1.Forward, error) {
	rest, protocol, err := cutProtocol(text)
	if err != nil {
		return nil, err
	}
	colon := strings.LastIndexByte(rest, ':')
	if colon < 0 {
		return nil, fmt.Errorf("%q is not a forward: give ADDRESS:PORT:PHONEPORT, such as 127.0.0.1:6001:5555", text)
	}
	port, err := strconv.ParseUint(rest[colon+1:], 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("forward %q: the phone's port %q must be 1..65535", text, rest[colon+1:])
	}
	listen, err := parseListen(rest[:colon])
	if err != nil {
		return nil, fmt.Errorf("forward %q: %w", text, err)
	}
	return &phonehostv1.Forward{Listen: listen, Protocol: protocol, Port: uint32(port)}, nil
}

// parseListen reads where a forward listens: "127.0.0.1:6001", or "6001", which is the same.
func parseListen(text string) (string, error) {
	if _, err := strconv.ParseUint(text, 10, 16); err == nil {
		text = "127.0.0.1:" + text
	}
	listen, err := netip.ParseAddrPort(text)
	if err != nil {
		return "", fmt.Errorf("%q is not ADDRESS:PORT, such as 127.0.0.1:6001 or [2001:db8::1]:6001", text)
	}
	return listen.String(), nil
}

// cutProtocol takes "/udp" or "/tcp" off the end of a forward.
func cutProtocol(text string) (rest string, protocol phonehostv1.NetworkProtocol, err error) {
	rest, word, found := strings.Cut(text, "/")
	switch {
	case !found || word == "tcp":
		return rest, phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_TCP, nil
	case word == "udp":
		return rest, phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_UDP, nil
	}
	return "", 0, fmt.Errorf("forward %q: the protocol must be tcp or udp", text)
}

type netForwardAddCmd struct {
	ID      string  `arg:"" help:"The phone."`
	Forward forward `arg:"" help:"ADDRESS:PORT:PHONEPORT, such as 127.0.0.1:6001:5555; /udp at its end for UDP. Without ADDRESS it is 127.0.0.1."`
}

func (c *netForwardAddCmd) Run(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	answer, err := networks.AddForward(ctx, &phonehostv1.AddForwardRequest{PhoneId: c.ID, Forward: c.Forward.spec})
	if err != nil {
		return about(c.ID, err)
	}
	return a.print(answer, func(io.Writer) error {
		a.sayf("%s: %s", c.ID, render.Forward(answer.GetForward()))
		return nil
	})
}

type netForwardRmCmd struct {
	ID     string `arg:"" help:"The phone."`
	Listen string `arg:"" help:"ADDRESS:PORT of the host, such as 127.0.0.1:6001; /udp at its end for UDP. Without ADDRESS it is 127.0.0.1."`
}

func (c *netForwardRmCmd) Run(ctx context.Context, a *app) error {
	rest, protocol, err := cutProtocol(c.Listen)
	if err != nil {
		return usagef("%v", err)
	}
	listen, err := parseListen(rest)
	if err != nil {
		return usagef("%v", err)
	}
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	answer, err := networks.RemoveForward(ctx, &phonehostv1.RemoveForwardRequest{PhoneId: c.ID, Listen: listen, Protocol: protocol})
	if err != nil {
		return about(c.ID, err)
	}
	return a.print(answer, func(io.Writer) error { a.sayf("%s: %s leads nowhere any more", c.ID, listen); return nil })
}

type netForwardLsCmd struct {
	IDs []string `arg:"" optional:"" name:"id" help:"Only these phones."`
}

func (c *netForwardLsCmd) Run(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	answer, err := networks.ListForwards(ctx, &phonehostv1.ListForwardsRequest{PhoneIds: c.IDs})
	if err != nil {
		return about(first(c.IDs), err)
	}
	return a.print(answer, func(w io.Writer) error { return render.Forwards(w, answer.GetForwards()) })
}
