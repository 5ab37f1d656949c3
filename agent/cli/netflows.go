package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type netFlowsCmd struct {
	ID     string `arg:"" help:"The phone."`
	Follow bool   `short:"f" help:"Go on with flows as they begin and end, of those that the agent samples, until interrupted."`
}

func (c *netFlowsCmd) Run(ctx context.Context, a *app) error {
	err := c.run(ctx, a)
	if c.Follow && interrupted(ctx, err) {
		return nil
	}
	return err
}

func (c *netFlowsCmd) run(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	var watch grpc.ServerStreamingClient[phonehostv1.WatchFlowsResponse]
	if c.Follow {
		if watch, err = networks.WatchFlows(ctx, &phonehostv1.WatchFlowsRequest{PhoneIds: []string{c.ID}}); err != nil {
			return about(c.ID, err)
		}
		if _, err := watch.Header(); err != nil { // from here on nothing is missed
			return about(c.ID, err)
		}
	}
	list, err := networks.ListFlows(ctx, &phonehostv1.ListFlowsRequest{PhoneId: c.ID})
	if err != nil {
		return about(c.ID, err)
	}
	all, err := allFlows(list)
	if err != nil {
		return about(c.ID, err)
	}
	table := render.NewFlows(a.now)
	if err := rows(a, all, func(w io.Writer) error { return table.Write(w, all) }); err != nil || !c.Follow {
		return err
	}
	for {
		answer, err := watch.Recv()
		if err != nil {
			return about(c.ID, ended(err))
		}
		a.missed(answer.GetMissed(), "flows")
		err = rows(a, answer.GetFlows(), func(w io.Writer) error { return table.Append(w, answer.GetFlows()) })
		if err != nil {
			return err
		}
	}
}

// allFlows reads a list of flows to its end.
func allFlows(list grpc.ServerStreamingClient[phonehostv1.ListFlowsResponse]) (all []*phonehostv1.Flow, err error) {
	for {
		answer, err := list.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, answer.GetFlows()...)
	}
}

// rows writes messages as lines of JSON where that was asked for, and as table says otherwise.
func rows[M proto.Message](a *app, messages []M, table func(io.Writer) error) error {
	if !a.json() {
		return table(a.stdout)
	}
	for _, m := range messages {
		if err := render.JSONLine(a.stdout, m); err != nil {
			return err
		}
	}
	return nil
}

// missed says how many lines could not be shown.
func (a *app) missed(n uint64, what string) {
	if n > 0 {
		a.sayf("%d %s were missed: they came faster than they could be shown", n, what)
	}
}

type netDenialsCmd struct {
	IDs    []string `arg:"" optional:"" name:"id" help:"Only these phones."`
	Follow bool     `short:"f" help:"What is dropped from now on, second by second, until interrupted."`
}

// Help is the detailed help.
func (c *netDenialsCmd) Help() string {
	return "Without -f it prints what the journal keeps (`phonectl events`): what is new at once, what goes on summed up, once a minute."
}

func (c *netDenialsCmd) Run(ctx context.Context, a *app) error {
	if c.Follow {
		return c.follow(ctx, a)
	}
	return fromJournal(ctx, a, c.IDs, render.DenialsOf, render.NewDenials().Append)
}

// fromJournal prints what the journal keeps of phones, all of them if none is named: of makes it of events, and show appends it to a table.
func fromJournal[T proto.Message](ctx context.Context, a *app, ids []string, of func([]*phonehostv1.Event, []string) []T, show func(io.Writer, []T) error) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	q := &phonehostv1.EventServiceWatchRequest{NoFollow: true}
	if len(ids) == 1 {
		q.PhoneId = ids[0]
	}
	stream, err := phonehostv1.NewEventServiceClient(conn.Control()).Watch(ctx, q)
	if err != nil {
		return about(first(ids), err)
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return about(first(ids), err)
		}
		some := of(answer.GetEvents(), ids)
		if err := rows(a, some, func(w io.Writer) error { return show(w, some) }); err != nil {
			return err
		}
	}
}

// follow prints what is dropped from now on.
func (c *netDenialsCmd) follow(ctx context.Context, a *app) error {
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	watch, err := networks.WatchDenials(ctx, &phonehostv1.WatchDenialsRequest{PhoneIds: c.IDs})
	if err != nil {
		return about(first(c.IDs), err)
	}
	table := render.NewDenials()
	for {
		answer, err := watch.Recv()
		if interrupted(ctx, err) {
			return nil
		}
		if err != nil {
			return about(first(c.IDs), ended(err))
		}
		a.missed(answer.GetMissed(), "entries")
		if err := rows(a, answer.GetDenials(), func(w io.Writer) error { return table.Append(w, answer.GetDenials()) }); err != nil {
			return err
		}
	}
}

type netTestCmd struct {
	ID   string `arg:"" help:"The phone, which was started."`
	To   string `required:"" placeholder:"HOST:PORT" help:"Where to: an address or a DNS name, and a port; with --icmp no port, with --from only the phone's port."`
	From string `placeholder:"ADDRESS" help:"Who would begin it, where that is not the phone."`
	UDP  bool   `name:"udp" xor:"protocol" help:"UDP, not TCP."`
	ICMP bool   `name:"icmp" xor:"protocol" help:"An echo request, not TCP."`
}

func (c *netTestCmd) Run(ctx context.Context, a *app) error {
	q, err := c.request()
	if err != nil {
		return err
	}
	networks, err := a.networks(ctx)
	if err != nil {
		return err
	}
	answer, err := networks.TestConnection(ctx, q)
	if err != nil {
		return about(c.ID, err)
	}
	if err := a.print(answer, func(w io.Writer) error { return render.Verdict(w, answer) }); err != nil {
		return err
	}
	if !answer.GetAllowed() {
		return exitError{code: exitFailed}
	}
	return nil
}

// request reads the peer and the port.
func (c *netTestCmd) request() (*phonehostv1.TestConnectionRequest, error) {
	q := &phonehostv1.TestConnectionRequest{PhoneId: c.ID, Peer: c.From, Protocol: phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_TCP}
	switch {
	case c.UDP:
		q.Protocol = phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_UDP
	case c.ICMP:
		q.Protocol = phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_ICMP
	}
	host, port := strings.Trim(c.To, "[]"), "0"
	if !c.ICMP {
		var err error
		if host, port, err = net.SplitHostPort(c.To); err != nil && c.From != "" {
			host, port, err = "", c.To, nil
		}
		if err != nil {
			return nil, usagef("--to %s: give HOST:PORT, such as example.com:443 or [2001:db8::1]:443", c.To)
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 && !c.ICMP {
		return nil, usagef("--to %s: the port must be 1..65535", c.To)
	}
	q.Port = uint32(n)
	if c.From == "" {
		q.Peer = host
		return q, nil
	}
	if host != "" && !c.ICMP {
		return nil, usagef("--to %s: with --from give only the phone's port, such as 5555", c.To)
	}
	q.Direction = phonehostv1.FlowDirection_FLOW_DIRECTION_INGRESS
	return q, nil
}
