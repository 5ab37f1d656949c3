package applist

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/phone/phonetest"
	"github.com/phonehost/phonehost/netpolicy/packages"
	"github.com/phonehost/phonehost/runtime/container"
)

// host is what outlives the agent: a kernel, guests with their files, a database.
type host struct {
	t *testing.T
	k *kernel
	w *phonetest.World
	// dir has the root directories of the guests, and the database.
	dir string
	// images has what is known of images.
	images library
	// follow follows the guests' lists of packages.
	follow Packages

	mu sync.Mutex
	// suspended has the packages that each guest's package manager has suspended, and execs what it was asked.
	suspended map[string]map[string]bool
	execs     []string
	execErr   error
	onExec    func(id string) // called before a package manager is asked
	oneByOne  bool            // the package manager takes one package at a time
}

func newHost(t *testing.T) *host {
	h := &host{t: t, k: newKernel(), w: phonetest.New(), dir: t.TempDir(), suspended: map[string]map[string]bool{}}
	h.follow = polled{}
	return h
}

// cgroup is the cgroup of a phone.
func (h *host) cgroup(id string) Cgroup {
	n := uint64(1000)
	for _, c := range []byte(id) {
		n = n*31 + uint64(c)
	}
	return Cgroup{ID: n, Dir: filepath.Join("/cgroup", id, "guest")}
}

// Cgroup implements Guests.
func (h *host) Cgroup(id string) (Cgroup, error) {
	h.w.Lock()
	defer h.w.Unlock()
	if h.w.Bodies[id] == nil {
		return Cgroup{}, fmt.Errorf("cgroup of %s: %w", id, errdefs.ErrNotFound)
	}
	return h.cgroup(id), nil
}

// Root implements Guests.
func (h *host) Root(_ context.Context, id string) (*os.File, error) {
	h.w.Lock()
	up := h.w.Bodies[id] != nil && h.w.Bodies[id].Guest.State == container.TaskRunning
	h.w.Unlock()
	if !up {
		return nil, fmt.Errorf("%s does not run: %w", id, errdefs.ErrFailedPrecondition)
	}
	dir := filepath.Join(h.dir, id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Open(dir)
}

// Exec implements Guests: the package manager of a guest.
func (h *host) Exec(_ context.Context, id string, o container.ExecOptions) (uint32, error) {
	if h.onExec != nil {
		h.onExec(id)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.execErr != nil {
		return 0, h.execErr
	}
	h.execs = append(h.execs, id+": "+strings.Join(o.Args, " "))
	words := slices.DeleteFunc(slices.Clone(o.Args[2:]), func(w string) bool {
		return w == "--user" || w == "0" || w == "--dialogMessage" || strings.Contains(w, " ")
	})
	if h.oneByOne {
		words = words[:1]
	}
	if h.suspended[id] == nil {
		h.suspended[id] = map[string]bool{}
	}
	for _, pkg := range words {
		if o.Args[1] == "suspend" {
			h.suspended[id][pkg] = true
		} else {
			delete(h.suspended[id], pkg)
		}
		fmt.Fprintf(o.Stdout, "Package %s new suspended state: %t\n", pkg, o.Args[1] == "suspend")
	}
	return 0, nil
}

// suspends are the packages that a guest's package manager has suspended.
func (h *host) suspends(id string) string {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(h.suspended[id])), " ")
}

// installs makes the list of packages of a guest: "NAME APPID [INSTALLER]" each.
func (h *host) installs(id string, lines ...string) {
	h.t.Helper()
	var text strings.Builder
	for _, line := range lines {
		words := append(strings.Fields(line), "@null")
		fmt.Fprintf(&text, "%s %s 0 /data/user/0/%s default none 0 1 0 %s\n", words[0], words[1], words[0], words[2])
	}
	dir := filepath.Join(h.dir, id, "data/system")
	err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/new", []byte(text.String()), 0o644), os.Rename(dir+"/new", filepath.Join(h.dir, id, packages.Path)))
	if err != nil {
		h.t.Fatal(err)
	}
}

// polled follows lists of packages in the time of a bubble, which inotify knows nothing of: it reads them every second.
type polled struct{}

// Follow implements Packages.
func (polled) Follow(ctx context.Context, root *os.File) <-chan packages.Update {
	updates := make(chan packages.Update)
	go func() {
		defer close(updates)
		defer root.Close()
		every := time.NewTicker(time.Second)
		defer every.Stop()
		var last string
		var good *packages.Table
		for {
			table, err := packages.Read(root)
			if table != nil {
				good = table
			}
			if now := fmt.Sprint(lines(good), err); now != last {
				last = now
				select {
				case updates <- packages.Update{Table: good, Err: err}:
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-every.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return updates
}
