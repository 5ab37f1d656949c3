package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"golang.org/x/sys/unix"
)

// busyTime is how long a program is tried whose file is open for writing: by a child of ours between fork and exec, if the
// host has just put it there.
const busyTime = time.Second

// Exec implements control.Handler.
func (h *handler) Exec(ctx context.Context, req control.Request, streams control.ExecIO) (int, error) {
	cmd, err := command(req)
	if err != nil {
		return -1, err
	}
	var plumbing plumbing
	if req.Terminal != nil {
		plumbing, err = terminal(cmd, *req.Terminal)
	} else {
		plumbing, err = pipes(cmd, req)
	}
	if err != nil {
		return -1, err
	}
	defer plumbing.close()
	err = start(ctx, cmd)
	plumbing.closeTheirs()
	if err != nil {
		plumbing.closeOutput()
		return -1, err
	}
	exited := make(chan struct{})
	copied := plumbing.copy(h, streams, exited)
	go func() { // ends with the program, whose end Exec waits for
		cmd.Wait()
		close(exited)
	}()
	h.steer(ctx, cmd.Process.Pid, plumbing.master, streams, exited)
	for _, done := range copied {
		<-done
	}
	return exitCode(cmd.ProcessState), nil
}

// steer passes signals and sizes on until the program has ended, and kills it when ctx ends.
func (h *handler) steer(ctx context.Context, pid int, master *os.File, streams control.ExecIO, exited <-chan struct{}) {
	given := ctx.Done()
	for {
		select {
		case <-exited:
			return
		case <-given:
			unix.Kill(-pid, unix.SIGKILL)
			given = nil
		case signal := <-streams.Signals:
			if err := unix.Kill(-pid, signal); err != nil {
				h.log.Warn("pass a signal on", "signal", signal, "pid", pid, "error", err)
			}
		case size := <-streams.Resize:
			if master != nil {
				setSize(master, size)
			}
		}
	}
}

// command returns the program to start, as the first of its own process group.
func command(req control.Request) (*exec.Cmd, error) {
	if len(req.Args) == 0 {
		return nil, fmt.Errorf("a command without arguments: %w", errdefs.ErrInvalidArgument)
	}
	var as *syscall.Credential
	if req.User != "" {
		var err error
		if as, err = credential(req.User); err != nil {
			return nil, err
		}
	}
	dir := req.Dir
	if dir == "" {
		dir = home(as)
	}
	env := append(os.Environ(), req.Env...)
	name, err := lookPath(req.Args[0], env, dir)
	if err != nil {
		return nil, err
	}
	return &exec.Cmd{Path: name, Args: req.Args, Env: env, Dir: dir, SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Credential: as}}, nil
}

// home is where a program runs that is told no directory: in root's, which others may not enter, or the one that all have.
func home(as *syscall.Credential) string {
	uid := uint32(os.Geteuid())
	if as != nil {
		uid = as.Uid
	}
	if _, err := os.Stat("/root"); err != nil || uid != 0 {
		return "/"
	}
	return "/root"
}

// lookPath finds a program in the PATH of env, or, if its name has a slash, from dir.
func lookPath(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join("/", dir, name)
		}
		return name, nil
	}
	path := ""
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, "PATH="); ok {
			path = value
		}
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("program %s is not in %s: %w", name, path, errdefs.ErrNotFound)
}

// credential returns the ids of NAME, UID or UID:GID.
func credential(name string) (*syscall.Credential, error) {
	uid, gid, pair := strings.Cut(name, ":")
	if id, err := strconv.ParseUint(uid, 10, 32); err == nil {
		c := &syscall.Credential{Uid: uint32(id), Gid: uint32(id)}
		if pair {
			group, err := strconv.ParseUint(gid, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("user %q, want NAME, UID or UID:GID: %w", name, errdefs.ErrInvalidArgument)
			}
			c.Gid = uint32(group)
		}
		return c, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("user %s: %v: %w", name, err, errdefs.ErrNotFound)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %s: %w", name, err)
	}
	c, err := credential(u.Uid + ":" + u.Gid)
	for _, group := range groups {
		if id, err := strconv.ParseUint(group, 10, 32); err == nil && c != nil {
			c.Groups = append(c.Groups, uint32(id))
		}
	}
	return c, err
}

// start starts the program, again while its file is busy.
func start(ctx context.Context, cmd *exec.Cmd) error {
	for deadline := time.Now().Add(busyTime); ; {
		err := cmd.Start()
		if !errors.Is(err, unix.ETXTBSY) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
		again := *cmd // a Cmd is started once
		*cmd = exec.Cmd{Path: again.Path, Args: again.Args, Env: again.Env, Dir: again.Dir, SysProcAttr: again.SysProcAttr, Stdin: again.Stdin, Stdout: again.Stdout, Stderr: again.Stderr}
	}
}

func exitCode(state *os.ProcessState) int {
	status, ok := state.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
