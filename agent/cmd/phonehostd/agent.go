package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/agent/app"
	"github.com/phonehost/phonehost/agent/applist"
	"github.com/phonehost/phonehost/agent/clock"
	"github.com/phonehost/phonehost/agent/command"
	"github.com/phonehost/phonehost/agent/config"
	"github.com/phonehost/phonehost/agent/data"
	"github.com/phonehost/phonehost/agent/display"
	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/imageapps"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/metrics"
	"github.com/phonehost/phonehost/agent/nameserver"
	"github.com/phonehost/phonehost/agent/network"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/agent/stream"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/appguard"
	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/cgroup"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/image"
)

// Names of the health warnings that are set here.
const (
	warnCgroup     = "cgroup-not-delegated"
	warnContainerd = "containerd-lost"
	warnDisk       = "disk-low"
	warnNetwork    = "network-off"
	warnNames      = "name-server-down"
	warnPolicies   = "policies-not-in-force"
	warnAppLists   = "app-lists-not-enforced"
	warnGroup      = "socket-group-missing"
	warnOutside    = "phones-outside-cgroup"
	warnPlanes     = "control-plane-lost"
	warnRoles      = "access-unknown"
)

// adoptTimeout bounds the first look at all phones.
const adoptTimeout = time.Minute

// agent is everything that runs, in the order in which it is built.
type agent struct {
	cfg    config.Config
	logger *slog.Logger
	start  time.Time

	health  *health.Registry
	db      *store.DB
	journal *event.Journal
	ops     *operation.Table
	engine  *container.Engine
	images  *image.Store
	// imageApps are the packages that came with the images.
	imageApps *imageapps.Keeper
	displays  *display.Registry
	phones    *phone.Supervisor
	commands  *command.Runner
	apps      *app.Manager
	archives  *data.Spool
	jobs      *job.Runner
	hub       *stream.Hub
	// networks is what gives phones their networks; netpolicy and network are nil where they have none.
	networks  phone.Networks
	netpolicy *netpolicy.Engine
	network   *network.Manager
	names     *nameserver.Tally
	// former is the networks that an agent with networks enabled made, where they are disabled; nil where there are none.
	former *netpolicy.Retired
	// lists are the lists of apps, and refused what was refused by them. appguard is nil where this kernel refuses nothing to apps.
	lists    *applist.Manager
	refused  refusals
	appguard *appguard.Guard
	metrics  *metrics.Metrics

	// unguarded tells why guests that may mount are not kept from the host; nil where they are.
	unguarded error
	// cgroupRoot is where phones get their cgroups, and delegated whether systemd leaves alone what is there; formerRoots are where former agents had them.
	cgroupRoot   string
	formerRoots  []string
	delegated    bool
	containerdUp atomic.Bool
	// closers undo what was built, last first.
	closers []func() error
}

// build makes the parts of the agent up to the phones, which are adopted; no door is open yet. On an error what was built is closed.
func build(ctx context.Context, cfg config.Config, logger *slog.Logger) (_ *agent, err error) {
	a := &agent{cfg: cfg, logger: logger, start: time.Now(), health: health.New(nil)}
	a.names = nameserver.NewTally(a.start)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	for _, step := range []func(context.Context) error{a.makeDirs, a.openState, a.openEngine, a.openNetworks, a.openAppLists, a.openPhones, a.expectNetworks, a.openNameServer, a.startAppLists, a.adopt, a.retireNetworks} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// close ends what was built, last first.
func (a *agent) close() error {
	var errs []error
	for i := len(a.closers) - 1; i >= 0; i-- {
		errs = append(errs, a.closers[i]())
	}
	a.closers = nil
	return errors.Join(errs...)
}

// defers adds to what close does.
func (a *agent) defers(fn func() error) { a.closers = append(a.closers, fn) }

// makeDirs makes the directories of the configuration.
func (a *agent) makeDirs(context.Context) error {
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{a.cfg.StateDir, 0o711}, {a.cfg.RunDir, 0o755}, {a.cfg.LogDir, 0o750}, {a.netnsDir(), 0o755}, {a.imageDir(), 0o700}, {filepath.Dir(a.cfg.Socket.Path), 0o755}} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}

// imageDir is where images are mounted for moments.
func (a *agent) imageDir() string { return filepath.Join(a.cfg.RunDir, "images") }

func (a *agent) netnsDir() string { return netnsDir(a.cfg) }

func netnsDir(c config.Config) string { return filepath.Join(c.RunDir, "netns") }

// openState opens the database and what is kept in it.
func (a *agent) openState(context.Context) (err error) {
	a.db, err = store.Open(store.Config{Path: filepath.Join(a.cfg.StateDir, "phonehost.db"), Logger: a.logger})
	if err != nil {
		return err
	}
	a.defers(a.db.Close)
	a.journal, err = event.New(event.Config{DB: a.db, Logger: a.logger})
	if err != nil {
		return err
	}
	a.defers(func() error { a.journal.Close(); return nil })
	a.ops, err = operation.New(operation.Config{DB: a.db, Journal: a.journal, OnEnd: func(op operation.Operation) {
		a.metrics.OperationEnded(strings.ReplaceAll(op.Kind.String(), " ", "_"), op.State.String(), op.EndTime.Sub(op.CreateTime))
	}})
	return err
}

// engineConfig is the engine's part of a configuration, and what was found out for it.
func engineConfig(c config.Config, logger *slog.Logger) (container.Config, cgroup.Place, error) {
	place, err := cgroup.Find()
	root, former := c.Runtime.CgroupRoot, []string(nil)
	if root == "" {
		root, former = place.Root, []string{place.Former}
	}
	return container.Config{
		Address: c.Containerd.Address, Namespace: c.Containerd.Namespace, Snapshotter: c.Runtime.Snapshotter,
		StateDir: c.StateDir, RunDir: c.RunDir, LogDir: c.LogDir, NetNSDir: netnsDir(c), CgroupRoot: root, FormerCgroupRoots: former,
		DisplayUIDBase: c.Display.UIDBase, DisplayBinary: c.Display.Binary, DisplayArgs: c.Display.Args, LogBinary: c.Runtime.LogBinary,
		RenderNode: c.Runtime.RenderNode, AllowUnguarded: c.Runtime.AllowUnguarded,
		Logger: logger,
	}, place, err
}

// openEngine connects to containerd.
func (a *agent) openEngine(ctx context.Context) (err error) {
	c := a.cfg
	engine, place, err := engineConfig(c, a.logger)
	if err != nil {
		return err
	}
	a.formerRoots = engine.FormerCgroupRoots
	a.cgroupRoot, a.delegated = engine.CgroupRoot, place.Delegated && engine.CgroupRoot == place.Root
	a.logger.Info("cgroups of phones", "root", a.cgroupRoot, "delegated", a.delegated)
	if place.Systemd && !place.Delegated && c.Runtime.CgroupRoot == "" {
		a.health.Set(warnCgroup, health.Warning, "systemd runs this host and has delegated no cgroup to phones: it does not promise to leave "+
			"their limits alone, and guests are not shut down when the host stops; start "+cgroup.Service+" (systemctl start "+cgroup.Service+") and restart the agent")
	}
	a.openGuard(&engine)
	a.engine, err = container.New(engine)
	if errdefs.IsUnavailable(err) {
		return fmt.Errorf("%w\ncontainerd does not answer at %s. Install it (apt-get install containerd runc) or start it "+
			"(systemctl start containerd), or set containerd.address in the configuration", err, c.Containerd.Address)
	}
	if err != nil {
		return err
	}
	a.defers(a.engine.Close)
	a.containerdUp.Store(true)
	a.images, err = image.New(image.Config{Client: a.engine.Client(), Unpacker: a.engine.Unpacker(), MountDir: a.imageDir()})
	if err != nil {
		return err
	}
	return a.images.Recover(ctx)
}

// openPhones makes the supervisor, the displays and the viewers.
func (a *agent) openPhones(context.Context) (err error) {
	a.displays, err = display.NewRegistry(display.Config{Dir: filepath.Join(a.cfg.RunDir, "phones"), Logger: a.logger})
	if err != nil {
		return err
	}
	a.defers(func() error { a.displays.Shutdown(); return nil })
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("read the kernel's boot id: %w", err)
	}
	capacity, err := hostCapacity()
	if err != nil {
		return err
	}
	a.archives, err = data.NewSpool(filepath.Join(a.cfg.StateDir, "spool", "data"), a.diskFree, a.cfg.Limits.DiskReserveBytes)
	if err != nil {
		return err
	}
	a.phones, err = phone.New(phone.Config{
		DB: a.db, Operations: a.ops, Journal: a.journal,
		Runtime: a.engine, Networks: a.networks, Pools: a.pools(), HasPolicy: network.Has, AppLists: a.lists, CheckAppList: a.lists.CheckAssign, Displays: a.displays, Images: imageSource{a.images},
		Host: capacity, HostBoot: strings.TrimSpace(string(bootID)),
		DiskFree: a.diskFree, DiskReserve: a.cfg.Limits.DiskReserveBytes, Binder: binder.Probe, OnContainerd: a.onContainerd,
		Volumes: a.engine, Archives: a.archives, ConcurrentBoots: int(a.cfg.Limits.ConcurrentBoots), ClockSet: a.clockSet,
		OnAdmitted: func(waited time.Duration) { a.metrics.BootAdmitted(waited) },
		Timing:     phone.Timing{BootTimeout: time.Duration(a.cfg.Limits.BootTimeout), Grace: time.Duration(a.cfg.Limits.Grace)},
		Logger:     a.logger,
	})
	if err != nil {
		return err
	}
	if err := a.archives.Collect(a.phones.NamesArchive); err != nil {
		return err
	}
	a.commands = &command.Runner{Guests: a.engine, Phones: a.phones}
	if err := a.openJobs(); err != nil {
		return err
	}
	a.hub, err = stream.NewHub(stream.Config{Displays: a.displays, Phones: a.phones, Logger: a.logger, OnViewer: a.onViewer})
	if err != nil {
		return err
	}
	a.defers(func() error { a.hub.Shutdown(); return nil })
	a.metrics, err = metrics.New(metrics.Config{
		Version: version, Start: a.start, PhonesByStatus: a.phones.CountByStatus, Streams: a.hub.Totals,
		DisplaysConnected: a.displays.Connected, ContainerdUp: a.containerdUp.Load, Health: a.health,
		PhonesFrozen: a.phones.Frozen, BootQueue: a.phones.BootQueue, DataSpace: a.dataSpace, Network: a.networkTotals, NameServer: a.nameServerTotals,
		AppLists: a.appListTotals,
	})
	return err
}

// dataSpaceTime bounds a look at all data volumes; a thousand take some 25 ms.
const dataSpaceTime = 5 * time.Second

// dataSpace adds up the data volumes of all phones.
func (a *agent) dataSpace() (container.DataSpace, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dataSpaceTime)
	defer cancel()
	return a.engine.DataSpace(ctx)
}

// clockSet reports steps of the host's wall clock. Without them a lease is judged at its time and every few minutes all the same.
func (a *agent) clockSet(ctx context.Context) <-chan struct{} {
	steps, err := clock.Steps(ctx)
	if err != nil {
		a.logger.Warn("steps of the wall clock are not noticed at once", "error", err)
		none := make(chan struct{})
		close(none)
		return none
	}
	return steps
}

// openJobs makes what works in running guests.
func (a *agent) openJobs() error {
	spool, err := app.NewSpool(filepath.Join(a.cfg.StateDir, "spool", "apps"), a.diskFree, a.cfg.Limits.DiskReserveBytes)
	if err != nil {
		return err
	}
	a.apps = &app.Manager{Guests: a.engine, Phones: a.phones, Spool: spool}
	a.jobs, err = job.New(job.Config{
		DB: a.db, Operations: a.ops, Phones: a.phones, Logger: a.logger,
		Handlers: map[operation.Kind]job.Handler{
			operation.Command: a.commands.Handler(), operation.InstallApp: a.apps.Installer(), operation.UninstallApp: a.apps.Uninstaller(),
			operation.StartApp: a.apps.Starter(), operation.StopApp: a.apps.Stopper(),
		},
	})
	if err != nil {
		return err
	}
	named, err := a.jobs.Payloads(operation.InstallApp)
	if err != nil {
		return err
	}
	return spool.Collect(app.Names(named))
}

// adopt starts the controllers over what runs already.
func (a *agent) adopt(ctx context.Context) error {
	cancel := a.displays.Subscribe(a.displayWatcher())
	a.defers(func() error { cancel(); return nil })
	a.defers(func() error { a.phones.Close(); return nil })
	ctx, stop := context.WithTimeout(ctx, adoptTimeout)
	defer stop()
	if err := a.phones.Start(ctx); err != nil {
		return err
	}
	a.logger.Info("phones adopted", "phones", len(a.phones.List()))
	a.defers(func() error { a.jobs.Close(); return nil })
	if err := a.jobs.Resume(); err != nil {
		return err
	}
	return a.watchOutside(ctx)
}

// imageSource is the image store in the words of package phone.
type imageSource struct{ store *image.Store }

// Image implements phone.Images.
func (s imageSource) Image(ctx context.Context, ref string) (phone.Image, error) {
	img, err := s.store.Get(ctx, ref)
	return phone.Image{Name: img.Name, Digest: img.Digest, Profile: img.Profile, AndroidVersion: img.AndroidRelease}, err
}

// hostCapacity returns what phones may be given at most.
func hostCapacity() (phone.Capacity, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return phone.Capacity{}, fmt.Errorf("read the host's memory: %w", err)
	}
	return phone.Capacity{CPUs: runtime.NumCPU(), MemoryBytes: uint64(info.Totalram) * uint64(info.Unit)}, nil
}

// diskFree returns the free bytes of the file system that holds the phones' data, and keeps the warning about it.
func (a *agent) diskFree() (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(a.cfg.StateDir, &fs); err != nil {
		return 0, fmt.Errorf("read free space of %s: %w", a.cfg.StateDir, err)
	}
	free := fs.Bavail * uint64(fs.Bsize)
	if free < a.cfg.Limits.DiskReserveBytes {
		a.health.Set(warnDisk, health.Warning, fmt.Sprintf("%s has %d MiB free, below limits.disk_reserve_bytes (%d MiB): phones are not created, started or imported; free some space",
			a.cfg.StateDir, free>>20, a.cfg.Limits.DiskReserveBytes>>20))
	} else {
		a.health.Clear(warnDisk)
	}
	return free, nil
}
