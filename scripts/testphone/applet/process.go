package applet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

func ok(context.Context, Streams, []string) error { return nil }

func no(context.Context, Streams, []string) error { return status(1) }

// env prints the environment, or runs a command in a changed one.
func env(ctx context.Context, s Streams, args []string) error {
	environ := os.Environ()
	for len(args) > 0 {
		switch {
		case args[0] == "-i":
			environ = nil
		case strings.Contains(args[0], "="):
			environ = append(environ, args[0])
		default:
			cmd := exec.CommandContext(ctx, args[0], args[1:]...)
			cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, s.In, s.Out, s.Err
			err := cmd.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.Exited() {
				return status(exit.ExitCode())
			}
			return err
		}
		args = args[1:]
	}
	for _, v := range environ {
		fmt.Fprintln(s.Out, v)
	}
	return nil
}

func id(_ context.Context, s Streams, args []string) error {
	var user, group bool
	if _, err := options(args, "id [-u | -g]", func(f *flag.FlagSet) {
		f.BoolVar(&user, "u", false, "")
		f.BoolVar(&group, "g", false, "")
	}); err != nil {
		return err
	}
	switch {
	case user:
		fmt.Fprintln(s.Out, os.Geteuid())
		return nil
	case group:
		fmt.Fprintln(s.Out, os.Getegid())
		return nil
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	if len(groups) == 0 {
		groups = []int{os.Getegid()}
	}
	names := make([]string, len(groups))
	for i, g := range groups {
		names[i] = userName(g)
	}
	fmt.Fprintf(s.Out, "uid=%s gid=%s groups=%s\n", userName(os.Geteuid()), userName(os.Getegid()), strings.Join(names, ","))
	return nil
}

// userName names the ids that Android names and testphone uses.
func userName(id int) string {
	known := map[int]string{0: "root", 1000: "system", 2000: "shell", 3003: "inet", 9999: "nobody"}
	switch name, ok := known[id]; {
	case ok:
		return fmt.Sprintf("%d(%s)", id, name)
	case id%100000 >= 10000 && id%100000 < 20000:
		return fmt.Sprintf("%d(u%d_a%d)", id, id/100000, id%100000-10000)
	}
	return strconv.Itoa(id)
}

// ownerName is the name of an id, or its number if it has none.
func ownerName(id int) string {
	number, name, ok := strings.Cut(strings.TrimSuffix(userName(id), ")"), "(")
	if ok {
		return name
	}
	return number
}

func kill(_ context.Context, _ Streams, args []string) error {
	const how = "kill [-SIGNAL] PID..."
	sig := unix.SIGTERM
	if len(args) > 1 && strings.HasPrefix(args[0], "-") {
		name := strings.ToUpper(args[0][1:])
		if n, err := strconv.Atoi(name); err == nil {
			sig = unix.Signal(n)
		} else if sig = unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG")); sig == 0 {
			return usage(how)
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return usage(how)
	}
	var errs []error
	for _, arg := range args {
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return usage(how)
		}
		if err := unix.Kill(pid, sig); err != nil {
			errs = append(errs, fmt.Errorf("%d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

func nproc(_ context.Context, s Streams, _ []string) error {
	fmt.Fprintln(s.Out, runtime.NumCPU())
	return nil
}

func ps(_ context.Context, s Streams, _ []string) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	slices.SortFunc(dirs, func(a, b string) int { return pidOf(a) - pidOf(b) })
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "USER\tPID\tPPID\tRSS\tS\tNAME")
	for _, dir := range dirs {
		p, err := readProcess(dir)
		if err != nil {
			continue // it has ended meanwhile
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", p.user, pidOf(dir), p.parent, p.rss, p.state, p.name)
	}
	return nil
}

// pidof prints the pids of the processes that have one of the names, as their whole command or as its last part.
func pidof(_ context.Context, s Streams, args []string) error {
	if len(args) == 0 {
		return usage("pidof NAME...")
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	var pids []string
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // it has ended meanwhile
		}
		name, _, _ := strings.Cut(string(text), "\x00")
		if name != "" && (slices.Contains(args, name) || slices.Contains(args, filepath.Base(name))) {
			pids = append(pids, filepath.Base(dir))
		}
	}
	if len(pids) == 0 {
		return status(1)
	}
	fmt.Fprintln(s.Out, strings.Join(pids, " "))
	return nil
}

func pidOf(dir string) int {
	pid, _ := strconv.Atoi(filepath.Base(dir))
	return pid
}

type process struct {
	user, parent, rss, state, name string
}

func readProcess(dir string) (process, error) {
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return process{}, err
	}
	p := process{rss: "0"}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		if len(f) == 0 {
			continue
		}
		switch key {
		case "Name":
			p.name = "[" + f[0] + "]"
		case "State":
			p.state = f[0]
		case "PPid":
			p.parent = f[0]
		case "VmRSS":
			p.rss = f[0]
		case "Uid":
			uid, _ := strconv.Atoi(f[0])
			p.user = ownerName(uid)
		}
	}
	if args, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(args) > 0 {
		p.name = strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))
	}
	return p, nil
}

func sleep(ctx context.Context, _ Streams, args []string) error {
	var total time.Duration
	for _, arg := range args {
		d, err := time.ParseDuration(arg)
		if err != nil {
			if d, err = time.ParseDuration(arg + "s"); err != nil {
				return usage("sleep SECONDS")
			}
		}
		total += d
	}
	if len(args) == 0 {
		return usage("sleep SECONDS")
	}
	timer := time.NewTimer(total)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
