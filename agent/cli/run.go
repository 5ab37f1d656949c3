package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"mvdan.cc/sh/v3/syntax"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type runCmd struct {
	IDs     []string      `arg:"" name:"id" help:"The phones, up to 32 or with --start up to 100; then -- and the command."`
	Words   []string      `name:"word" sep:"none" hidden:"" help:"A word of the command: what stands behind -- is made such flags."`
	Shell   string        `short:"c" placeholder:"LINE" help:"The command as one line of the shell, instead of words behind --."`
	Timeout time.Duration `name:"limit" placeholder:"DURATION" help:"How long it may run in each phone. Default: 10s, at most 1m; with --start 10m, at most 1h."`
	Start   bool          `help:"Run it as an operation, which goes on without this command and is kept for 24 hours."`
	waiting
}

// Help is the detailed help.
func (c *runCmd) Help() string {
	return "The words of the command are quoted for the shell; with -c the line is the shell's. What each phone prints is shown behind its " +
		"name, the beginning of long output alone. The exit code is 0 when the command ended with 0 in every phone, else 1."
}

// runWords makes the words behind -- of a run command flags of it, since the phones, of which there may be any number, stand before them.
func runWords(args []string) []string {
	end := slices.Index(args, "--")
	if end < 0 {
		return args
	}
	for i := 0; i < end; i++ {
		if name := args[i]; !strings.HasPrefix(name, "-") {
			if name != "run" {
				return args
			}
			break
		} else if !strings.Contains(name, "=") {
			i++ // every flag that stands before the command has a value
		}
	}
	words := slices.Clone(args[:end])
	for _, w := range args[end+1:] {
		words = append(words, "--word="+w)
	}
	return words
}

// line is the command for the shell.
func (c *runCmd) line() (string, error) {
	switch {
	case c.Shell != "" && len(c.Words) > 0:
		return "", usagef("run takes the command behind -- or with -c, not both")
	case c.Shell != "":
		return c.Shell, nil
	case len(c.Words) == 0:
		return "", usagef("run needs a command: `phonectl run ID... -- CMD...`, or `phonectl run ID... -c LINE`")
	case len(c.Words) == 1 && strings.ContainsAny(c.Words[0], " \t\n"):
		return "", usagef("%q is one word, and so the name of one program; a line for the shell is: `phonectl run ID... -c %[1]q`", c.Words[0])
	}
	quoted := make([]string, len(c.Words))
	for i, w := range c.Words {
		var err error
		if quoted[i], err = syntax.Quote(w, syntax.LangPOSIX); err != nil {
			return "", usagef("the word %q cannot be quoted for a shell: %v", w, err)
		}
	}
	return strings.Join(quoted, " "), nil
}

func (c *runCmd) Run(ctx context.Context, a *app) error {
	line, err := c.line()
	if err != nil {
		return err
	}
	commands, err := a.commands(ctx)
	if err != nil {
		return err
	}
	var timeout *durationpb.Duration
	if c.Timeout != 0 {
		timeout = durationpb.New(c.Timeout)
	}
	if c.Start || c.NoWait || c.RequestID != "" {
		answer, err := commands.StartCommand(ctx, &phonehostv1.StartCommandRequest{PhoneIds: c.IDs, Command: line, Timeout: timeout, RequestId: c.RequestID})
		if err != nil {
			return aboutAll(c.IDs, err)
		}
		return a.finish(ctx, answer.GetOperation(), c.waiting)
	}
	answer, err := commands.RunCommand(ctx, &phonehostv1.RunCommandRequest{PhoneIds: c.IDs, Command: line, Timeout: timeout})
	if err != nil {
		return aboutAll(c.IDs, err)
	}
	err = a.print(answer, func(w io.Writer) error { return render.CommandResults(w, answer.GetResults()) })
	if err != nil {
		return err
	}
	return a.commandOutcome(answer.GetResults())
}

// commandOutcome says what went wrong where, and turns it into the command's result.
func (a *app) commandOutcome(results []*phonehostv1.CommandResult) error {
	bad := 0
	for _, r := range results {
		id, out, f := r.GetPhoneId(), r.GetOutput(), r.GetFailure()
		switch {
		case f != nil:
			a.sayf("%s: %s", id, render.Printable(f.GetMessage()))
			if remedy := remedyFor(codes.Code(f.GetCode()), f.GetReason(), id, nil); remedy != "" {
				a.sayf("  %s", remedy)
			}
		case out.GetExitCode() != 0:
			a.sayf("%s: exit code %d", id, out.GetExitCode())
		default:
			continue
		}
		bad++
	}
	if bad == 0 {
		return nil
	}
	text := ""
	if len(results) > 1 {
		text = fmt.Sprintf("not done in %d of %d phones", bad, len(results))
	}
	return exitError{code: exitFailed, text: text}
}
