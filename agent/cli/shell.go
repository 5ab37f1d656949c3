package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type shellCmd struct {
	ID   string   `arg:"" help:"The phone."`
	Args []string `arg:"" optional:"" name:"command" passthrough:"partial" help:"-- and a program to run instead of the profile's shell."`
	guestProcess
}

func (c *shellCmd) Run(ctx context.Context, a *app) error {
	tty, ok := terminal(a.stdin)
	if !ok {
		return usagef("shell needs a terminal; without one: `phonectl exec %s -- CMD...`", c.ID)
	}
	args := c.Args
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	env := c.Env
	if name := a.getenv("TERM"); name != "" {
		env = append([]string{"TERM=" + name}, env...)
	}
	code, err := c.onTerminal(ctx, tty, func(ctx context.Context, resize <-chan *phonehostv1.TerminalSize) (int, error) {
		command := &remoteCommand{
			start: &phonehostv1.ExecStart{
				PhoneId: c.ID, Args: args, Terminal: true, Size: terminalSize(tty), Env: env, Cwd: c.Cwd, Uid: c.UID,
			},
			stdin: tty, stdout: a.stdout, stderr: a.stderr, resize: resize,
		}
		return command.run(ctx, phones)
	})
	if err != nil {
		return about(c.ID, err)
	}
	return asExit(code)
}

// onTerminal runs fn with the terminal raw and its size changes on a channel, and gives the terminal back as it was.
func (c *shellCmd) onTerminal(ctx context.Context, tty *os.File, fn func(context.Context, <-chan *phonehostv1.TerminalSize) (int, error)) (int, error) {
	state, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return 0, fmt.Errorf("make the terminal raw: %w", err)
	}
	defer term.Restore(int(tty.Fd()), state) //nolint:errcheck // nothing better is left to do

	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	resize := make(chan *phonehostv1.TerminalSize)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			select {
			case <-ctx.Done():
				return
			case resize <- terminalSize(tty):
			}
		}
	})
	defer func() {
		signal.Stop(changed)
		cancel()
		wg.Wait()
	}()
	return fn(ctx, resize)
}

// terminalSize is the size of a terminal, or 80 by 24 where it does not tell.
func terminalSize(tty *os.File) *phonehostv1.TerminalSize {
	columns, rows, err := term.GetSize(int(tty.Fd()))
	if err != nil || columns <= 0 || rows <= 0 {
		columns, rows = 80, 24
	}
	return &phonehostv1.TerminalSize{Columns: uint32(columns), Rows: uint32(rows)}
}
