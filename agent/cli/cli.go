// Package cli is phonectl: one file per command, each a small struct that kong fills in and whose Run method talks to an
// agent through agent/client and the clients of proto/phonehost/v1, and prints through agent/cli/render.
//
// It runs in process: arguments, streams, environment and clock come in through Config, nothing here touches os.Args or
// ends the process. Data goes to the standard output and words go to the standard error, so that output can be piped.
// Errors end with the command that mends them where there is one. A command's goroutines end before Run returns.
//
// Exit codes: 0 done; 1 refused or failed; 2 the command line is wrong. `phonectl exec` passes on the command's own code.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// The exit codes of phonectl.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Config is what phonectl needs of the process it runs in.
type Config struct {
	// Args are the arguments without the program's name.
	Args []string
	// Stdin is the standard input. An *os.File that is a terminal is used as one.
	Stdin io.Reader
	// Stdout takes data, Stderr words. An *os.File that is a terminal is used as one.
	Stdout, Stderr io.Writer
	// Getenv reads the environment; nil means an empty one.
	Getenv func(string) string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Version of this binary.
	Version string
}

// commandLine is the grammar of phonectl.
type commandLine struct {
	globals

	Create   createCmd   `cmd:"" group:"phones" help:"Create a phone, fresh or with the data of another; it is not started."`
	Ls       lsCmd       `cmd:"" group:"phones" help:"List phones, or watch them with -w."`
	Status   statusCmd   `cmd:"" group:"phones" help:"Show what phones are doing."`
	Show     showCmd     `cmd:"" group:"phones" help:"Show everything about a phone."`
	Spec     specCmd     `cmd:"" group:"phones" help:"Print the OCI runtime spec of a phone's next start."`
	On       onCmd       `cmd:"" group:"phones" help:"Power phones on and wait until they have booted."`
	Off      offCmd      `cmd:"" group:"phones" help:"Power phones off."`
	Restart  restartCmd  `cmd:"" group:"phones" help:"Restart running phones, optionally from another image."`
	Reset    resetCmd    `cmd:"" group:"phones" help:"Give phones a fresh system and data volume; user data is destroyed."`
	Set      setCmd      `cmd:"" group:"phones" help:"Change what phones may use and what they are."`
	Freeze   freezeCmd   `cmd:"" group:"phones" help:"Power phones off and keep them from being started, for a reason."`
	Unfreeze unfreezeCmd `cmd:"" group:"phones" help:"Let phones be started again."`
	Renew    renewCmd    `cmd:"" group:"phones" help:"Give phones a new end of their lease."`
	Rm       rmCmd       `cmd:"" group:"phones" help:"Delete phones and all that belongs to them."`
	Exec     execCmd     `cmd:"" group:"phones" help:"Run a command in a phone and pass on its exit code."`
	Run      runCmd      `cmd:"" group:"phones" help:"Run a line of the shell in many phones and print what each says."`
	Shell    shellCmd    `cmd:"" group:"phones" help:"Open a shell in a phone."`
	App      appCmd      `cmd:"" group:"phones" help:"Install, list, start, stop and remove apps."`
	Data     dataCmd     `cmd:"" group:"phones" help:"Look after data volumes: usage, growth, trim, archives."`
	Net      netCmd      `cmd:"" group:"phones" help:"Decide what phones may reach, and see what they do."`
	AppList  appListCmd  `cmd:"" name:"applist" group:"phones" help:"Decide which apps phones may install, start and let into the network."`
	Push     pushCmd     `cmd:"" group:"phones" help:"Copy a file into a phone."`
	Pull     pullCmd     `cmd:"" group:"phones" help:"Copy a file out of a phone."`
	Logs     logsCmd     `cmd:"" group:"phones" help:"Print the output of a phone's guest or display."`

	Record     recordCmd     `cmd:"" group:"screen" help:"Record a phone's screen as H.264 or MP4 and measure the stream."`
	Screenshot screenshotCmd `cmd:"" group:"screen" help:"Save a phone's screen as PNG."`
	Input      inputCmd      `cmd:"" group:"screen" help:"Touch, swipe, press keys, type and turn the wheel."`

	Image  imageCmd  `cmd:"" group:"host" help:"Pull, import, list and remove images."`
	Ops    opsCmd    `cmd:"" group:"host" help:"List operations, show one or wait for one."`
	Events eventsCmd `cmd:"" group:"host" help:"Print the journal of events, or follow it with -f."`
	Host   hostCmd   `cmd:"" group:"host" help:"Show the host: versions, resources, phones, warnings."`
	Doctor doctorCmd `cmd:"" group:"host" help:"Check the host and say how to mend what is wrong."`

	PKI    pkiCmd    `cmd:"" name:"pki" group:"doors" help:"Make a test CA and certificates."`
	Hub    hubCmd    `cmd:"" name:"hub" group:"doors" help:"Run a small control plane that agents dial."`
	Agents agentsCmd `cmd:"" group:"doors" help:"List the agents that are connected to --hub."`

	Version    versionCmd    `cmd:"" group:"client" help:"Print the versions of phonectl and of the agent."`
	Completion completionCmd `cmd:"" group:"client" help:"Print the completion script of a shell."`
	Complete   completeCmd   `cmd:"" name:"__complete" group:"client" hidden:"" passthrough:"" help:"Complete a command line."`
}

const description = "Talk to phonehostd, the cloud-phone host agent: on this host through its socket, " +
	"elsewhere with --host tls://HOST:PORT, or through a hub with --hub and --agent."

// Run runs one command line to its end and returns phonectl's exit code. When ctx ends, waiting ends and the command says
// how to go on; a terminal is never left raw.
func Run(ctx context.Context, cfg Config) int {
	a := newApp(cfg)
	var root commandLine
	parser, exited, err := newParser(&root, a)
	if err != nil {
		a.sayf("phonectl: %v", err)
		return exitFailed
	}
	if len(cfg.Args) == 0 {
		_, _ = parser.Parse([]string{"--help"})
		return exitUsage
	}
	parsed, err := parser.Parse(runWords(wheelNumbers(cfg.Args)))
	if *exited {
		return exitDone // --help has been printed
	}
	if err != nil {
		a.sayf("phonectl: %v", err)
		a.sayf("Run `%s --help` for the right form.", commandOf(err))
		return exitUsage
	}
	a.globals = root.globals
	if a.globals.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.globals.Timeout)
		defer cancel()
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run(a)
	a.close()
	return a.exitCode(ctx, err)
}

// newParser builds the kong parser; exited is set once kong has answered by itself, with help.
func newParser(root *commandLine, a *app) (parser *kong.Kong, exited *bool, err error) {
	exited = new(bool)
	parser, err = kong.New(root,
		kong.Name("phonectl"),
		kong.Description(description),
		kong.Writers(a.stdout, a.stderr),
		kong.Exit(func(int) { *exited = true }),
		kong.Resolvers(environment(a.getenv)),
		kong.ValueFormatter(helpWithEnvironment),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, FlagsLast: true, WrapUpperBound: 110}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "phones", Title: "Phones:"},
			{Key: "screen", Title: "Screen:"},
			{Key: "host", Title: "Host:"},
			{Key: "doors", Title: "Doors:"},
			{Key: "client", Title: "Client:"},
			{Key: "global", Title: "Global flags:"},
		}),
	)
	return parser, exited, err
}

// environment gives a flag with a variable:"NAME" tag that variable's value where the command line does not set it. A
// hub from the environment does not override a host from the command line.
func environment(getenv func(string) string) kong.Resolver {
	return kong.ResolverFunc(func(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		name := flag.Tag.Get("variable")
		if name == "" || getenv(name) == "" || (flag.Name == "hub" && given(ctx, "host")) {
			return nil, nil
		}
		return getenv(name), nil
	})
}

// given says whether the command line sets a flag.
func given(ctx *kong.Context, name string) bool {
	return slices.ContainsFunc(ctx.Path, func(p *kong.Path) bool {
		return p.Flag != nil && p.Flag.Name == name && !p.Resolved
	})
}

func helpWithEnvironment(value *kong.Value) string {
	name := value.Tag.Get("variable")
	if name == "" {
		return value.Help
	}
	return strings.TrimSuffix(value.Help, ".") + " ($" + name + ")."
}

// commandOf is the command whose help shows what a wrong command line should have been.
func commandOf(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			return node.FullPath()
		}
		return strings.TrimSpace("phonectl " + parse.Context.Command())
	}
	return "phonectl"
}

// usageError is a command line that kong accepts and the command does not.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return usageError{text: fmt.Sprintf(format, args...)}
}

// exitError ends phonectl with a code of its own; an empty text prints nothing.
type exitError struct {
	code int
	text string
}

func (e exitError) Error() string { return e.text }
