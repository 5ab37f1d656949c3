package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/applist"
	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/metrics"
	"github.com/phonehost/phonehost/netpolicy/appguard"
	"github.com/phonehost/phonehost/netpolicy/packages"
	"github.com/phonehost/phonehost/runtime/cgroup"
)

// canaryCommand is the canary of app lists (appguard.RunCanary).
type canaryCommand struct{}

// Run tries what must be refused. SIGKILL may be the end of it.
func (canaryCommand) Run() error {
	if code := appguard.RunCanary(); code != 0 {
		os.Exit(code)
	}
	return nil
}

// appsDir is where the app lists of phones below a cgroup are pinned.
func appsDir(cgroupRoot string) string { return bpfDir("apps", cgroupRoot) }

// openAppguard has the kernel judge the apps of phones.
func (a *agent) openAppguard(ctx context.Context) (*appguard.Guard, error) {
	root, err := cgroup.Dir(a.cgroupRoot)
	if err != nil {
		return nil, err
	}
	return appguard.Open(ctx, appguard.Config{
		Dir: appsDir(a.cgroupRoot), CgroupRoot: root, Level: cgroup.GuestLevel(a.cgroupRoot),
		// This very program, also when its file has been replaced.
		Canary: []string{"/proc/self/exe", "canary"}, Logger: a.logger,
	})
}

// removeAppLists has the kernel judge the apps of phones below a cgroup no more.
func removeAppLists(cgroupRoot string) error {
	root, err := cgroup.Dir(cgroupRoot)
	if errdefs.IsNotImplemented(err) {
		return nil // nothing was ever there
	}
	if err != nil {
		return err
	}
	err = appguard.Remove(appsDir(cgroupRoot), root)
	if errdefs.IsFailedPrecondition(err) {
		return nil // without a BPF file system there are no pins
	}
	return err
}

// dropFormerApps has the kernel judge no more the apps below the cgroups of former agents, where no phone runs any more.
func (a *agent) dropFormerApps() {
	for _, root := range a.formerRoots {
		dir, err := cgroup.Dir(root)
		if err != nil {
			continue // without cgroup v2 nothing was ever there
		}
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if strings.Contains(string(events), "populated 1") {
			continue
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = removeAppLists(root)
		}
		if err != nil { // where it is not known whether phones run there, they stay judged
			a.logger.Warn("what judged the apps of phones below a former cgroup is still there", "cgroup", root, "error", err)
		}
	}
}

// openAppLists makes what keeps the lists of apps. Where the kernel cannot refuse anything they are kept all the same, and told to the guests.
func (a *agent) openAppLists(ctx context.Context) error {
	a.dropFormerApps()
	watcher := packages.NewWatcher(a.logger)
	a.defers(func() error { watcher.Close(); return nil })
	guard, err := a.openAppguard(ctx)
	var enforcer applist.Enforcer
	if err != nil {
		a.logger.Warn("this host's kernel refuses nothing to apps", "error", err)
		enforcer = applist.Unavailable{Err: err}
	} else {
		a.defers(guard.Close)
		a.appguard, enforcer = guard, kernelApps{guard, &a.refused}
		status := guard.Status()
		a.logger.Info("app lists", "tier", status.Tier, "mechanism", status.Mechanism, "shown", status.Shown, "not_better", status.Why)
	}
	if err := a.openImageApps(); err != nil {
		return err
	}
	a.lists, err = applist.Open(applist.Config{
		DB: a.db, Journal: a.journal, Enforcer: enforcer, Guests: guestApps{a.engine}, Packages: watcher, Images: a.imageApps, Logger: a.logger,
	})
	return err
}

// startAppLists puts the lists in force, before any guest is started, and keeps trying whether the kernel does what it is taken to do.
func (a *agent) startAppLists(ctx context.Context) error {
	a.imageApps.Start(ctx)
	a.defers(func() error { a.imageApps.Close(); return nil })
	a.defers(func() error { a.lists.Close(); return nil })
	a.lists.Start(ctx, a.phones)
	a.onAppLists(nil)
	trying, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.tryAppLists(trying)
	}()
	a.defers(func() error { stop(); <-done; return nil })
	return nil
}

// tryApps is how often the canary runs.
const tryApps = time.Minute

// tryAppLists runs the canary again and again until the context ends.
func (a *agent) tryAppLists(ctx context.Context) {
	every := time.NewTicker(tryApps)
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
		var untried error
		if a.appguard != nil {
			began := time.Now()
			err := a.appguard.Try(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				a.logger.Warn("app lists: the canary", "error", err)
			}
			if a.appguard.Status().Checked.Before(began) {
				untried = err
			}
		}
		a.onAppLists(untried)
	}
}

// onAppLists keeps the warning about lists that are not enforced, in full or at all. untried tells why it could not be tried.
func (a *agent) onAppLists(untried error) {
	if text := appListWarning(len(a.lists.List()), a.lists.Status(), untried); text != "" {
		a.health.Set(warnAppLists, health.Warning, text)
	} else {
		a.health.Clear(warnAppLists)
	}
}

// appListWarning says what of a host's lists is not enforced; empty where all is, and where there are none: the doctor tells what one would be worth.
func appListWarning(lists int, status applist.Status, untried error) string {
	text := status.Gaps()
	if untried != nil {
		text = fmt.Sprintf("what this host's kernel refuses to apps could not be tried: %v", untried)
	}
	if text == "" || lists == 0 {
		return ""
	}
	return "app lists are not enforced as they are stored: " + text + "; phonectl doctor says what is missing"
}

// appListTotals is what the metrics tell of app lists.
func (a *agent) appListTotals() metrics.AppLists {
	return metrics.AppLists{Tier: a.lists.Status().Tier, Denied: a.refused.totals()}
}
