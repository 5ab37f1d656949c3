package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PlainRoot is the root of the phones' cgroups on a host without systemd.
const PlainRoot = "/phonehost"

// The units of systemd that keep the phones' cgroups. Service runs the holder (Hold), and the holder is what keeps Scope. A scope,
// because systemd starts no process in one: a service whose cgroup has controllers enabled for its children cannot be started again
// (EBUSY) before systemd 254. Slice is the scope's place in the tree.
const (
	Slice   = "phonehost.slice"
	Scope   = "phonehost-phones.scope"
	Service = "phonehost-phones.service"
	// Target is what an administrator stops to stop all phones; see docs/systemd.md.
	Target = "phonehost.target"
	// DelegatedRoot is the cgroup of Scope.
	DelegatedRoot = "/" + Slice + "/" + Scope
)

// holderName is the cgroup of the holder in the scope; no phone has such a name.
const holderName = ".holder"

// Place is where the cgroups of phones belong on this host.
type Place struct {
	// Root is DelegatedRoot or PlainRoot, and Former the other one: phones of an agent that found another place stay there until their
	// next start.
	Root, Former string
	// Systemd tells whether systemd runs this host, and Delegated whether it leaves what is below Root alone. Without systemd
	// nobody else touches it.
	Systemd, Delegated bool
}

// Find chooses the place: the delegated scope if it exists, else PlainRoot.
func Find() (Place, error) {
	found, err := mounted()
	if err != nil {
		return Place{}, err
	}
	_, err = os.Stat("/run/systemd/system") // what sd_booted(3) looks at
	return choose(found, err == nil), nil
}

func choose(found []hierarchy, systemd bool) Place {
	if !systemd {
		return Place{Root: PlainRoot, Former: DelegatedRoot}
	}
	for _, h := range systemdsOwn(found) {
		if info, err := os.Stat(filepath.Join(h.mount, DelegatedRoot)); err == nil && info.IsDir() {
			return Place{Root: DelegatedRoot, Former: PlainRoot, Systemd: true, Delegated: true}
		}
	}
	return Place{Root: PlainRoot, Former: DelegatedRoot, Systemd: true}
}

// systemdsOwn returns the hierarchies in which systemd keeps its units: its named one and cgroup v2, as far as they are mounted.
func systemdsOwn(found []hierarchy) []hierarchy {
	return slices.DeleteFunc(slices.Clone(found), func(h hierarchy) bool { return !h.v2 && !slices.Contains(h.controllers, "name=systemd") })
}

// Hold makes this process the holder of the delegated scope: the process that keeps the scope while no phone runs. Where the scope is
// active the process joins it; else systemd-run(1) makes it, and runs program, which is this process's command line, in it in place of
// this process: Hold does not return then, and returns in the new image. After Hold has returned nil the process lives as long as it can.
func Hold(ctx context.Context, program []string) error {
	found, err := mounted()
	if err != nil {
		return err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("read the own cgroup: %w", err)
	}
	if !isWithin(string(own), DelegatedRoot) {
		active, err := scopeIsActive(ctx)
		if err != nil {
			return err
		}
		if !active {
			return makeScope(program)
		}
	}
	return join(systemdsOwn(found))
}

// isWithin reads /proc/PID/cgroup: whether the process is at or below root in any hierarchy.
func isWithin(text, root string) bool {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 && (parts[2] == root || strings.HasPrefix(parts[2], root+"/")) {
			return true
		}
	}
	return false
}

func scopeIsActive(ctx context.Context) (bool, error) {
	cmd := exec.CommandContext(ctx, "systemctl", "show", "--property=ActiveState", "--value", Scope)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return false, fmt.Errorf("ask systemd for %s: %w: %s", Scope, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)) == "active", nil
}

// scopeProperties are those of the scope. An administrator adds to them with a drop-in, /etc/systemd/system/<Scope>.d/x.conf.
var scopeProperties = []string{
	"Delegate=yes",
	// Stopping the scope ends all phones at once, without asking them: Target is the way.
	"RefuseManualStop=yes",
	"PartOf=" + Target,
	// This makes the target's stop job wait for the scope's. Its own file must not name the scope: what another unit names stays
	// loaded when it ends, and systemd makes no new scope in the place of one that is loaded.
	"After=" + Target,
	// When the host or the target stops, the service's ExecStop shuts the guests down first.
	"Before=" + Service,
	"TimeoutStopSec=20s",
	// The default is a share of the host's; each phone has a limit of its own.
	"TasksMax=infinity",
}

func makeScope(program []string) error {
	path, err := exec.LookPath("systemd-run")
	if err != nil {
		return fmt.Errorf("make %s: %w", Scope, err)
	}
	args := []string{"systemd-run", "--quiet", "--scope", "--collect", "--unit=" + Scope, "--slice=" + Slice, "--description=Cgroups of Android phones"}
	for _, p := range scopeProperties {
		args = append(args, "--property="+p)
	}
	args = append(append(args, "--"), program...)
	if err := unix.Exec(path, args, os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", path, err)
	}
	return nil
}

// join moves this process into the holder's cgroup, so that the scope's own has no process and may give its controllers to children.
func join(found []hierarchy) error {
	joined := false
	for _, h := range found {
		scope := filepath.Join(h.mount, DelegatedRoot)
		if _, err := os.Stat(scope); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		dir := filepath.Join(scope, holderName)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the holder's cgroup: %w", err)
		}
		if err := write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
			return fmt.Errorf("move into the holder's cgroup %s: %w", dir, err)
		}
		joined = true
	}
	if !joined {
		return fmt.Errorf("join %s: no hierarchy has the cgroup %s: %w", Scope, DelegatedRoot, fs.ErrNotExist)
	}
	return nil
}
