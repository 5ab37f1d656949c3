package vm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/gobuild"
	"github.com/phonehost/phonehost/scripts/vm/control"
)

// localHost stands in for the lab: a machine is a directory, a program in it a process of this machine.
type localHost struct{ dies bool }

func (localHost) build(ctx context.Context, _ Target, pkg string, test bool) (string, error) {
	return gobuild.Build(ctx, gobuild.Request{Package: pkg, Test: test, Variant: "local", Env: []string{"CGO_ENABLED=0"}, Flags: []string{"-ldflags=-s -w"}})
}

func (localHost) prepare(context.Context, Target, settings) error { return nil }

func (h localHost) boot(ctx context.Context, t *testing.T, target Target, s settings, payload string) (guest, error) {
	dir := t.TempDir()
	if payload != "" {
		if out, err := exec.CommandContext(ctx, "tar", "-xf", payload, "-C", dir).CombinedOutput(); err != nil {
			return nil, errors.New(string(out))
		}
	}
	return localGuest{dir: dir, dies: h.dies}, nil
}

type localGuest struct {
	dir  string
	dies bool
}

// Exec runs a program with the payload's place in the machine changed for the one here.
func (g localGuest) Exec(ctx context.Context, c control.Command) (int, error) {
	here := func(words []string) []string {
		var changed []string
		for _, w := range words {
			changed = append(changed, strings.ReplaceAll(w, payloadDir, g.dir))
		}
		return changed
	}
	args := here(c.Args)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = filepath.Clean(strings.ReplaceAll(c.Dir, payloadDir, g.dir))
	cmd.Env = append(here(c.Env), gateEnv+"=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	err := cmd.Run()
	if g.dies {
		return 0, errors.New("the machine ended")
	}
	var failed *exec.ExitError
	if errors.As(err, &failed) && ctx.Err() == nil {
		return failed.ExitCode(), nil
	}
	if err == nil {
		return 0, nil
	}
	if _, found := os.Stat(args[0]); found != nil {
		return 0, found
	}
	return 0, errors.Join(ctx.Err(), err)
}
