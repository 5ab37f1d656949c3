package cli

import (
	"context"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// guestProcess are the flags of commands that run something in a guest.
type guestProcess struct {
	UID uint32   `placeholder:"UID" help:"Uid and gid to run as. Default: 0, root."`
	Cwd string   `placeholder:"DIR" help:"Working directory in the phone. Default: /."`
	Env []string `short:"e" sep:"none" placeholder:"NAME=VALUE" help:"Variable for the command; may be repeated."`
}

type execCmd struct {
	ID   string   `arg:"" help:"The phone."`
	Args []string `arg:"" name:"command" passthrough:"partial" help:"-- and the command with its arguments."`
	guestProcess
	NoStdin bool `short:"n" help:"Leave the standard input alone, for use in loops that read from it."`
}

// Help is the detailed help.
func (c *execCmd) Help() string {
	return "The standard input is passed on, and the exit code is the command's own where it is 0..125; any other is 1, " +
		"with the code in words on the standard error. Ctrl-C kills the command."
}

func (c *execCmd) Run(ctx context.Context, a *app) error {
	args := c.Args
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return usagef("exec needs a command: `phonectl exec %s -- CMD...`, or `phonectl shell %s`", c.ID, c.ID)
	}
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	command := &remoteCommand{
		start:  &phonehostv1.ExecStart{PhoneId: c.ID, Args: args, Env: c.Env, Cwd: c.Cwd, Uid: c.UID},
		stdout: a.stdout, stderr: a.stderr,
	}
	if !c.NoStdin {
		command.stdin = a.stdin
	}
	code, err := command.run(ctx, phones)
	if err != nil {
		return about(c.ID, err)
	}
	return asExit(code)
}
