package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	"github.com/phonehost/phonehost/agent/cli/render"
	"github.com/phonehost/phonehost/agent/client"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// globals are the flags that every command takes.
type globals struct {
	Host    string        `group:"global" variable:"PHONEHOST_HOST" default:"unix:///run/phonehost/phonehostd.sock" placeholder:"ADDR" help:"The agent: unix:///PATH or tls://HOST:PORT. Default ${default}"`
	Hub     string        `group:"global" variable:"PHONEHOST_HUB" placeholder:"HOST:PORT" help:"Reach the agent through this hub instead; needs --agent."`
	Agent   string        `group:"global" variable:"PHONEHOST_AGENT" placeholder:"NAME" help:"Name of the agent at the hub."`
	Cert    string        `group:"global" variable:"PHONEHOST_CERT" placeholder:"FILE" help:"Client certificate (PEM) for tls:// and --hub."`
	Key     string        `group:"global" variable:"PHONEHOST_KEY" placeholder:"FILE" help:"Key of the client certificate (PEM)."`
	CA      string        `name:"ca" group:"global" variable:"PHONEHOST_CA" placeholder:"FILE" help:"CA that signs agents and hub (PEM)."`
	Output  string        `short:"o" group:"global" enum:"table,json" default:"table" placeholder:"FORMAT" help:"table, or json: the API's own messages as protojson."`
	Timeout time.Duration `group:"global" placeholder:"DURATION" help:"Give up after this long, such as 30s. Default: never."`
}

// app is one run of phonectl: its streams, its global flags and, once a command has asked for it, its connection. It is
// used by one goroutine.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	version        string
	globals        globals

	client *client.Client
}

func newApp(cfg Config) *app {
	a := &app{
		stdin: cfg.Stdin, stdout: cfg.Stdout, stderr: cfg.Stderr,
		getenv: cfg.Getenv, now: cfg.Now, version: cfg.Version,
	}
	if a.getenv == nil {
		a.getenv = func(string) string { return "" }
	}
	if a.now == nil {
		a.now = time.Now
	}
	return a
}

// connect returns the connection to the agent that the global flags name, and opens it the first time.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	if a.globals.Hub != "" && a.globals.Agent == "" {
		return nil, usagef("--hub needs --agent NAME: `phonectl agents` lists the names")
	}
	c, err := client.Dial(ctx, a.options())
	if err != nil {
		return nil, err
	}
	a.client = c
	return c, nil
}

func (a *app) options() client.Options {
	g := a.globals
	o := client.Options{Host: g.Host, Hub: g.Hub, Agent: g.Agent, Cert: g.Cert, Key: g.Key, CA: g.CA}
	if g.Hub != "" {
		o.Host = "" // the hub is the way
	}
	return o
}

func (a *app) close() {
	if a.client == nil {
		return
	}
	if err := a.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		a.sayf("phonectl: close the connection: %v", err)
	}
}

func (a *app) phones(ctx context.Context) (phonehostv1.PhoneServiceClient, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return phonehostv1.NewPhoneServiceClient(c.Control()), nil
}

func (a *app) operations(ctx context.Context) (phonehostv1.OperationServiceClient, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return phonehostv1.NewOperationServiceClient(c.Control()), nil
}

func (a *app) commands(ctx context.Context) (phonehostv1.CommandServiceClient, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return phonehostv1.NewCommandServiceClient(c.Control()), nil
}

func (a *app) apps(ctx context.Context) (phonehostv1.AppServiceClient, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return phonehostv1.NewAppServiceClient(c.Media()), nil // APKs are bulk
}

func (a *app) data(ctx context.Context) (phonehostv1.DataServiceClient, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return phonehostv1.NewDataServiceClient(c.Media()), nil // archives are bulk
}

func (a *app) files(ctx context.Context) (phonehostv1.FileServiceClient, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return phonehostv1.NewFileServiceClient(c.Media()), nil // bulk
}

func (a *app) images(ctx context.Context) (phonehostv1.ImageServiceClient, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	// Archives are bulk and travel beside commands, not among them.
	return phonehostv1.NewImageServiceClient(c.Media()), nil
}

func (a *app) host(ctx context.Context) (phonehostv1.HostServiceClient, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	return phonehostv1.NewHostServiceClient(c.Control()), nil
}

// json says whether programs read the output.
func (a *app) json() bool { return a.globals.Output == "json" }

// print writes m as JSON when that was asked for, and as table says otherwise.
func (a *app) print(m proto.Message, table func(w io.Writer) error) error {
	if a.json() {
		return render.JSON(a.stdout, m)
	}
	return table(a.stdout)
}

// sayf writes a line of words to the standard error.
func (a *app) sayf(format string, args ...any) {
	fmt.Fprintf(a.stderr, format+"\n", args...) //nolint:errcheck // nobody is left to be told
}

// terminal returns the file behind a stream when it is a terminal.
func terminal(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}
