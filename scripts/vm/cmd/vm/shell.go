package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/lab"
	"github.com/phonehost/phonehost/scripts/vm/machine"
	"github.com/phonehost/phonehost/scripts/vm/ready"
)

type shellCmd struct {
	Arch     string   `help:"Architecture: amd64 or arm64. This computer's if it is not given." default:"${arch}" placeholder:"ARCH"`
	Kernel   string   `help:"Kernel series of scripts/vm/lab.toml." default:"6.12" placeholder:"SERIES"`
	Kind     string   `help:"What boots: system is Debian with systemd and containerd, kernel is busybox alone." enum:"system,kernel" default:"system"`
	Variant  []string `help:"How it boots: ${variants}. Several, with commas, are in force together." placeholder:"NAME"`
	Put      []string `help:"Copy a file to an absolute PATH of the machine, to a directory if it ends with a slash; to /root if there is none." sep:"none" placeholder:"FILE[:PATH]"`
	Programs bool     `help:"Build the programs of phonehost and the image testphone.tar for the machine, and put them into /run/payload/bin, which is on the PATH."`
	Fresh    bool     `help:"Boot the machine instead of resuming a saved one."`
	Memory   int      `help:"Memory in MiB; 1536, or 768 for a kernel machine, if it is not given." placeholder:"MIB"`
	CPUs     int      `name:"cpus" help:"Number of processors; 2 if it is not given." placeholder:"N"`
	Command  []string `arg:"" optional:"" passthrough:"partial" help:"Program to run, with its arguments, instead of a shell."`
}

// Help says what the one-line help of the command does not.
func (*shellCmd) Help() string {
	return `The machine is resumed from a saved one, which is booted and saved first if there is none, and ends with the shell: nothing of it is left.
At a terminal the shell, or the command, has a terminal of that size in the machine. Else it has the three streams as they are.
The exit code is the shell's or the command's, or 128 and the number of the signal that ended it; 1 if there was no machine or it was lost,
2 if there is no such machine.`
}

// homeDir is where a shell begins, and where files are put that are given no path.
const homeDir = "/root"

// Run starts a machine and a shell in it.
func (c *shellCmd) Run(r *run) error {
	l, err := lab.Open(r.cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	spec, err := c.spec(l.Architectures(), l.Series())
	if err != nil {
		return err
	}
	files, err := parsePuts(c.Put)
	if err != nil {
		return err
	}
	m, err := c.start(r.ctx, ready.New(l, r.log), spec)
	if err != nil {
		return err
	}
	code, err := c.use(r, spec, m, files)
	if err := errors.Join(err, m.Close()); err != nil {
		return err
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}

// spec is the machine that was asked for, of the architectures and series that there are.
func (c *shellCmd) spec(arches, series []string) (ready.Spec, error) {
	spec := ready.Spec{Arch: c.Arch, Series: c.Kernel, System: c.Kind == "system"}
	if err := known("architecture", c.Arch, arches); err != nil {
		return spec, err
	}
	if err := known("kernel series", c.Kernel, series); err != nil {
		return spec, err
	}
	for _, name := range c.Variant {
		v, err := ready.ParseVariant(name)
		if err != nil {
			return spec, err
		}
		if slices.Contains(spec.Variants, v) {
			return spec, fmt.Errorf("variant %s is named twice: %w", v, errdefs.ErrInvalidArgument)
		}
		spec.Variants = append(spec.Variants, v)
	}
	if c.Memory < 0 || c.CPUs < 0 {
		return spec, fmt.Errorf("%d MiB of memory and %d processors: want numbers above 0: %w", c.Memory, c.CPUs, errdefs.ErrInvalidArgument)
	}
	return spec, spec.Check()
}

// known says that word is none of all, which it names.
func known(what, word string, all []string) error {
	if slices.Contains(all, word) {
		return nil
	}
	return fmt.Errorf("%s %q: scripts/vm/lab.toml has %s: %w", what, word, strings.Join(all, ", "), errdefs.ErrInvalidArgument)
}

// start starts the machine, with the programs if they are wanted.
func (c *shellCmd) start(ctx context.Context, source *ready.Source, spec ready.Spec) (*machine.Machine, error) {
	config, err := source.Config(ctx, spec)
	if err != nil {
		return nil, err
	}
	config.CPUs, config.MemoryMiB = c.CPUs, c.Memory
	if c.Programs {
		dir, err := os.MkdirTemp("", "phonehost-vm-")
		if err != nil {
			return nil, fmt.Errorf("pack the programs: %w", err)
		}
		defer os.RemoveAll(dir) // the machine has a copy
		config.Payload = filepath.Join(dir, "payload.tar")
		if err := packPrograms(ctx, source, spec, config.Payload); err != nil {
			return nil, err
		}
	}
	return source.Start(ctx, spec, config, c.Fresh)
}

// use puts the files into the machine, and runs the shell or the command to its end.
func (c *shellCmd) use(r *run, spec ready.Spec, m *machine.Machine, files []put) (int, error) {
	for _, f := range files {
		if err := f.do(r.ctx, m); err != nil {
			return 0, err
		}
	}
	env := []string{"PATH=" + guestPath, "HOME=" + homeDir, "USER=root", "LANG=C.UTF-8"}
	cmd := control.Command{Args: c.command(spec), Env: env, Stdin: r.in, Stdout: r.out, Stderr: r.err}
	t := terminalOf(r.in, r.out)
	if t == nil {
		return m.Exec(r.ctx, cmd)
	}
	if len(words(c.Command)) == 0 {
		c.greet(r, spec)
	}
	return t.exec(r.ctx, m, cmd)
}

// command is what runs in the machine.
func (c *shellCmd) command(spec ready.Spec) []string {
	switch command := words(c.Command); {
	case len(command) > 0:
		return command
	case spec.System:
		return []string{"bash"}
	}
	return []string{"sh"}
}

// words are those of a command after a "--", if there is one.
func words(command []string) []string {
	if len(command) > 0 && command[0] == "--" {
		return command[1:]
	}
	return command
}

// greet tells a person what there is to know.
func (c *shellCmd) greet(r *run, spec ready.Spec) {
	fmt.Fprintf(r.err, "vm: %s: the machine, and all in it, ends with this shell\n", spec)
	if c.Programs && spec.System {
		fmt.Fprintf(r.err, "vm: to install phonehost: BIN=%s %s; the image is %s/testphone.tar\n", programDir, installScript, programDir)
	}
}

// put is one file to copy into a machine.
type put struct{ from, to string }

// parsePuts reads FILE[:PATH] and sees to it that there are such files.
func parsePuts(args []string) ([]put, error) {
	var all []put
	for _, arg := range args {
		p := put{from: arg, to: homeDir + "/"}
		if i := strings.LastIndex(arg, ":/"); i > 0 {
			p.from, p.to = arg[:i], arg[i+1:]
		}
		info, err := os.Stat(p.from)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("put %s: there is no file %s here: want FILE or FILE:/PATH: %w", arg, p.from, errdefs.ErrInvalidArgument)
		}
		if err != nil {
			return nil, fmt.Errorf("put %s: %w", arg, err)
		}
		if info.IsDir() {
			return nil, fmt.Errorf("put %s: %s is a directory: want a file, such as a tar file of it: %w", arg, p.from, errdefs.ErrInvalidArgument)
		}
		if strings.HasSuffix(p.to, "/") {
			p.to = path.Join(p.to, filepath.Base(p.from))
		}
		all = append(all, p)
	}
	return all, nil
}

// do copies the file, with its permissions.
func (p put) do(ctx context.Context, m *machine.Machine) error {
	f, err := os.Open(p.from)
	if err != nil {
		return fmt.Errorf("put a file into the machine: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("put a file into the machine: %w", err)
	}
	return m.Put(ctx, p.to, info.Mode().Perm(), f)
}
