// Package applet is the small commands of testphone's shell, one function each, as Android has them in toybox and toolbox.
//
// Most of what handles files comes from u-root; what it lacks is written here with the options that people use. Nothing is kept between
// calls, and every command works on the Streams it is given, so commands may run at the same time in one process.
package applet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// command runs with its arguments, its own name left out.
type command func(ctx context.Context, s Streams, args []string) error

// status is the exit status of a command that has said itself what is wrong, or has nothing to say.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// Names returns the names of all commands, sorted.
func Names() []string { return slices.Sorted(maps.Keys(table())) }

// Run runs a command and returns its exit status: 0 done, 1 not done, 2 usage, or what the command says. Errors are printed to s.Err.
// The error is of class errdefs.ErrNotFound when there is no command of that name, else nil.
func Run(ctx context.Context, s Streams, name string, args []string) (int, error) {
	cmd, ok := table()[name]
	if !ok {
		return 0, fmt.Errorf("command %q: %w", name, errdefs.ErrNotFound)
	}
	err := cmd(ctx, s, args)
	var code status
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &code):
		return int(code), nil
	case errors.Is(err, flag.ErrHelp), errors.Is(err, errUsage):
		fmt.Fprintf(s.Err, "%s: %v\n", name, err)
		return 2, nil
	}
	fmt.Fprintf(s.Err, "%s: %v\n", name, err)
	return 1, nil
}

var errUsage = errors.New("usage")

// usage returns an error that says how a command is called.
func usage(how string) error { return fmt.Errorf("%w: %s", errUsage, how) }

// options parses arguments after define has declared the flags; single letters may be joined. how is the usage line.
func options(args []string, how string, define func(*flag.FlagSet)) ([]string, error) {
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	define(f)
	if err := f.Parse(separate(f, args)); err != nil {
		return nil, fmt.Errorf("%w: %w", usage(how), err)
	}
	return f.Args(), nil
}

// separate takes joined letters apart: -al is -a -l, and -n5 is -n 5 where n takes a value.
func separate(f *flag.FlagSet, args []string) []string {
	var list []string
	for i, arg := range args {
		if len(arg) < 2 || arg[0] != '-' || arg == "--" {
			return append(list, args[i:]...)
		}
		for j := 1; j < len(arg); j++ {
			list = append(list, "-"+arg[j:j+1])
			known := f.Lookup(arg[j : j+1])
			if known == nil {
				continue
			}
			if b, ok := known.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
				continue
			}
			if j+1 < len(arg) {
				list = append(list, arg[j+1:])
				break
			}
			return append(list, more(f, args[i+1:])...)
		}
	}
	return list
}

// more is the value of an option and what separate makes of the rest.
func more(f *flag.FlagSet, args []string) []string {
	if len(args) == 0 {
		return nil
	}
	return append([]string{args[0]}, separate(f, args[1:])...)
}

func table() map[string]command {
	t := map[string]command{
		"basename": basename, "dd": dd, "df": df, "dirname": dirname, "du": du, "ln": ln, "mount": mount, "pwd": pwd, "readlink": readlink,
		"chown": chown, "rmdir": rmdir, "stat": stat, "sync": syncFiles,
		"echo": echo, "grep": grep, "head": head, "seq": seq, "tail": tail, "tee": tee, "wc": wc, "yes": yes,
		"env": env, "false": no, "id": id, "kill": kill, "nproc": nproc, "pidof": pidof, "ps": ps, "sleep": sleep, "true": ok,
		"date": date, "free": free, "hostname": hostname, "ip": ip, "uname": uname, "uptime": uptime,
		"am": am, "cmd": cmd, "pm": pm,
		"flood": flood, "getprop": getprop, "log": logMessage, "reboot": reboot, "service": service, "setprop": setprop, "start": start, "stop": stop,
	}
	maps.Copy(t, uroot())
	return t
}
