package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/phonehost/phonehost/scripts/vm/lab"
)

type ccCmd struct {
	Arch    string   `arg:"" help:"Architecture: amd64 or arm64."`
	Command []string `arg:"" optional:"" passthrough:"partial" help:"Program to run, such as go build, with its arguments."`
}

// Run runs a command in the environment that makes `go build` compile Go with C for the architecture, against its sysroot, which is
// built first if it is not in the cache. Without a command it prints the environment as a shell reads it.
func (c *ccCmd) Run(r *run) error {
	l, err := lab.Open(r.cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := known("architecture", c.Arch, l.Architectures()); err != nil {
		return err
	}
	env, err := l.CC(r.ctx, c.Arch)
	if err != nil {
		return err
	}
	command := words(c.Command)
	if len(command) == 0 {
		return printEnv(r, env)
	}
	cmd := exec.CommandContext(r.ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r.in, r.out, r.err
	err = cmd.Run()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) && failed.Exited() {
		return exitError(failed.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", command[0], err)
	}
	return nil
}

func printEnv(r *run, env []string) error {
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		quoted, err := syntax.Quote(value, syntax.LangPOSIX)
		if err != nil {
			return fmt.Errorf("write the value of %s for a shell: %w", name, err)
		}
		if _, err := fmt.Fprintf(r.out, "export %s=%s\n", name, quoted); err != nil {
			return err
		}
	}
	return nil
}
