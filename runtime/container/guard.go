package container

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/profile"
)

// Guard keeps guests that may mount from what is the host's; *guard.Guard does. Cgroups are named by their ids in cgroup v2.
type Guard interface {
	Protect(cgroup uint64) error
	Release(cgroup uint64) error
	Protected() ([]uint64, error)
}

// mustGuard refuses to start a guest that may mount where nothing would keep it from the host, unless that is allowed.
func (e *Engine) mustGuard(prof *profile.Profile) error {
	if !prof.Seccomp.Android || e.config.Guard != nil || e.config.AllowUnguarded {
		return nil
	}
	return fmt.Errorf("guests of profile %s may mount (CAP_SYS_ADMIN), and this kernel cannot keep them from the host's /proc: "+
		"use one that can (phonectl doctor says what is missing), or allow it with runtime.allow_unguarded = true, which gives root of such a guest the host: %w",
		prof.Name, errdefs.ErrFailedPrecondition)
}

// protect has the guard judge the guest's processes, of which none runs yet.
func (e *Engine) protect(id string) error {
	if e.config.Guard == nil {
		return nil
	}
	cgroup, err := e.cgroups.GuestID(id)
	if err != nil {
		return err
	}
	return e.config.Guard.Protect(cgroup)
}

// unprotect ends that: when no guest runs, and before the next is created, since the runtime mounts within the guest's cgroup.
func (e *Engine) unprotect(id string) error {
	if e.config.Guard == nil {
		return nil
	}
	cgroup, err := e.cgroups.GuestID(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return e.config.Guard.Release(cgroup)
}

// releaseGone ends the protection of cgroups that are gone: of phones that were destroyed while there was no agent.
func (e *Engine) releaseGone() error {
	if e.config.Guard == nil {
		return nil
	}
	protected, err := e.config.Guard.Protected()
	if err != nil || len(protected) == 0 {
		return err
	}
	ids, err := e.cgroups.List()
	if err != nil {
		return err
	}
	var there []uint64
	for _, id := range ids {
		if cgroup, err := e.cgroups.GuestID(id); err == nil {
			there = append(there, cgroup)
		}
	}
	for _, cgroup := range protected {
		if !slices.Contains(there, cgroup) {
			if err := e.config.Guard.Release(cgroup); err != nil {
				return err
			}
		}
	}
	return nil
}
