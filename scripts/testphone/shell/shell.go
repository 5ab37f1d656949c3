// Package shell is testphone's sh: POSIX shell with bash's additions, as mvdan.cc/sh interprets it, reading commands from its arguments,
// a script, its input, or a person at a terminal.
//
// Everything runs in the caller's goroutine but the reader of a terminal's signals, which Main waits for. Programs run in the shell's own
// process group; there is no job control.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// killTimeout is how long a program that an interrupt found running may go on.
const killTimeout = 2 * time.Second

// Streams are the shell's standard streams. In may be a terminal.
type Streams struct {
	In       *os.File
	Out, Err io.Writer
}

// Main runs sh with its arguments, the name left out: -c COMMAND [NAME [ARG...]], SCRIPT [ARG...], or none. It returns the exit status.
func Main(ctx context.Context, s Streams, args []string) int {
	var flags []string
	for len(args) > 0 && (args[0] == "-e" || args[0] == "-u" || args[0] == "-x" || args[0] == "-l" || args[0] == "-i") {
		if args[0] != "-l" && args[0] != "-i" {
			flags = append(flags, args[0])
		}
		args = args[1:]
	}
	var err error
	switch {
	case len(args) > 0 && args[0] == "-c":
		if len(args) < 2 {
			fmt.Fprintln(s.Err, "sh: -c wants a command")
			return 2
		}
		params := args[2:]
		if len(params) > 0 {
			params = params[1:] // the name
		}
		err = script(ctx, s, strings.NewReader(args[1]), "", append(append(flags, "--"), params...))
	case len(args) > 0:
		err = file(ctx, s, args[0], append(append(flags, "--"), args[1:]...))
	case term.IsTerminal(int(s.In.Fd())):
		err = interactive(ctx, s, flags)
	default:
		err = script(ctx, s, s.In, "stdin", flags)
	}
	var code interp.ExitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintf(s.Err, "sh: %v\n", err)
	var parse syntax.ParseError
	if errors.As(err, &parse) {
		return 2
	}
	return 1
}

func runner(s Streams, params []string, more ...interp.RunnerOption) (*interp.Runner, error) {
	options := append([]interp.RunnerOption{
		interp.StdIO(s.In, s.Out, s.Err),
		interp.Env(expand.ListEnviron(os.Environ()...)),
		interp.Params(params...),
		interp.CallHandler(programs),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return interp.DefaultExecHandler(killTimeout) }),
	}, more...)
	return interp.New(options...)
}

// programs sends the builtins that the interpreter only knows by name to the programs of that name.
func programs(ctx context.Context, args []string) ([]string, error) {
	if args[0] != "kill" {
		return args, nil
	}
	hc := interp.HandlerCtx(ctx)
	path, err := interp.LookPathDir(hc.Dir, hc.Env, args[0])
	if err != nil {
		return args, nil
	}
	return append([]string{path}, args[1:]...), nil
}

func file(ctx context.Context, s Streams, path string, params []string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return script(ctx, s, f, path, params)
}

func script(ctx context.Context, s Streams, text io.Reader, name string, params []string) error {
	r, err := runner(s, params)
	if err != nil {
		return err
	}
	program, err := syntax.NewParser().Parse(text, name)
	if err != nil {
		return err
	}
	return r.Run(ctx, program)
}

// interactive reads lines from a terminal until exit or the end of input. An interrupt ends the command that runs, not the shell.
func interactive(ctx context.Context, s Streams, params []string) error {
	r, err := runner(s, params, interp.Interactive(true))
	if err != nil {
		return err
	}
	// Handled, not ignored, so that programs have it again.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP)
	defer signal.Stop(interrupts)
	lines := newEditor(s)
	parser := syntax.NewParser()
	var last error
	for {
		statements, err := lines.read(parser, prompt(r))
		if errors.Is(err, io.EOF) {
			return last
		}
		var parse syntax.ParseError
		if errors.As(err, &parse) {
			fmt.Fprintf(s.Err, "sh: %v\n", err)
			continue
		}
		if err != nil {
			return err
		}
		if len(statements) == 0 {
			continue
		}
		var interrupted bool
		last, interrupted = runInterruptible(ctx, s, r, statements, interrupts)
		if r.Exited() && !interrupted {
			return last
		}
	}
}

// runInterruptible runs the statements of a line and returns the status of the last one. An interrupt ends all of them.
func runInterruptible(ctx context.Context, s Streams, r *interp.Runner, statements []*syntax.Stmt, interrupts <-chan os.Signal) (last error, interrupted bool) {
	for len(interrupts) > 0 {
		<-interrupts
	}
	running, cancel := context.WithCancel(ctx)
	stopped, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-interrupts:
			cancel()
		case <-stop:
		}
	}()
	defer func() { close(stop); <-stopped; cancel() }()
	for _, statement := range statements {
		last = r.Run(running, statement)
		if running.Err() != nil && ctx.Err() == nil {
			return interp.ExitStatus(128 + unix.SIGINT), true
		}
		if r.Exited() {
			return last, false
		}
		var code interp.ExitStatus
		if last != nil && !errors.As(last, &code) {
			fmt.Fprintf(s.Err, "sh: %v\n", last)
		}
	}
	return last, false
}

func prompt(r *interp.Runner) string {
	sign := "$ "
	if os.Geteuid() == 0 {
		sign = "# "
	}
	host, err := os.Hostname()
	if err != nil {
		host = "testphone"
	}
	return host + ":" + r.Dir + " " + sign
}
