package appguard

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// killPasses bounds how often Kill looks again: who makes processes faster than they are killed is stopped by the rules that forbid it.
const killPasses = 100

// Kill ends the processes below a cgroup (a directory of cgroup v2) that a condition holds for: of one of the four uids of one of their threads, by AppID. It
// returns how many it has killed, when they have ended and no other is there. It is for apps that run when they are denied: set the rules before, or they
// start again.
//
// A process that is in another cgroup, or another's, when it has been opened, is not killed.
func (g *Guard) Kill(ctx context.Context, cgroup string, doomed func(app uint32) bool) (killed int, err error) {
	for range killPasses {
		n, err := killOnce(ctx, cgroup, doomed)
		killed += n
		if err != nil {
			return killed, fmt.Errorf("kill apps below %s: %w", cgroup, err)
		}
		if n == 0 {
			return killed, nil
		}
	}
	return killed, fmt.Errorf("kill apps below %s: there are others each time, %d so far", cgroup, killed)
}

// killOnce looks once, and waits for those it has killed. What a process is and where is asked when a pidfd holds it: its number may have become
// another's before.
func killOnce(ctx context.Context, cgroup string, doomed func(uint32) bool) (n int, err error) {
	held, err := hold(cgroup, doomed)
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	if err != nil || len(held) == 0 {
		return 0, err
	}
	still, err := processes(cgroup)
	if err != nil {
		return 0, err
	}
	var dying []int
	for _, pid := range still {
		if fd, found := held[pid]; found && isDoomed(pid, doomed) {
			if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err == nil {
				dying = append(dying, fd)
			} else if !errors.Is(err, unix.ESRCH) {
				return len(dying), fmt.Errorf("process %d: %w", pid, err)
			}
		}
	}
	for _, fd := range dying {
		if err := ended(ctx, fd); err != nil {
			return len(dying), err
		}
	}
	return len(dying), nil
}

// hold opens pidfds of processes that seem doomed, by their numbers.
func hold(cgroup string, doomed func(uint32) bool) (map[int]int, error) {
	pids, err := processes(cgroup)
	held := map[int]int{}
	for _, pid := range pids {
		if _, twice := held[pid]; twice || !isDoomed(pid, doomed) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return held, fmt.Errorf("process %d: %w", pid, err)
		}
		held[pid] = fd
	}
	return held, err
}

// processes returns what runs in a cgroup and below, none for one that is gone.
func processes(cgroup string) (pids []int, err error) {
	err = filepath.WalkDir(cgroup, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		for word := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// isDoomed tells whether a condition holds for any uid of any thread of a process. One that is gone, or a zombie, is not.
func isDoomed(pid int, doomed func(uint32) bool) bool {
	tasks := filepath.Join("/proc", strconv.Itoa(pid), "task")
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return false
	}
	for _, thread := range threads {
		text, err := os.ReadFile(filepath.Join(tasks, thread.Name(), "status"))
		if err != nil {
			continue
		}
		for _, uid := range uids(text) {
			if doomed(AppID(uid)) {
				return true
			}
		}
	}
	return false
}

// uids returns the four uids of the text of /proc/.../status, none for a zombie.
func uids(status []byte) []uint32 {
	var all []uint32
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 1 && fields[0] == "State:" && (fields[1] == "Z" || fields[1] == "X") {
			return nil
		}
		if len(fields) == 5 && fields[0] == "Uid:" {
			for _, field := range fields[1:] {
				if uid, err := strconv.ParseUint(field, 10, 32); err == nil {
					all = append(all, uint32(uid))
				}
			}
		}
	}
	return all
}

// ended waits for the end of a process.
func ended(ctx context.Context, pidfd int) error {
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a process: %w", err)
		}
	}
	return context.Cause(ctx)
}
