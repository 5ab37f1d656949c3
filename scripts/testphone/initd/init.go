package initd

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/testphone/logd"
	"github.com/phonehost/phonehost/scripts/testphone/property"
	"golang.org/x/sys/unix"
)

const (
	buildProp       = "/system/build.prop"
	dataDir         = "/data"
	persistentFile  = "/data/property/persistent_properties"
	logSocket       = logd.SocketPath
	powerctl        = "sys.powerctl"
	bootReason      = "persist.sys.boot.reason"
	defaultShutdown = 6 * time.Second
)

// Config is what Run needs.
type Config struct {
	// Args are the arguments of init, without its name: properties, as property.ParseArgs reads them.
	Args []string
	// Version is printed when init starts.
	Version string
	// Services are started in this order.
	Services []Service
	// Stdout takes the messages of init and, as their standard output and error, those of the services.
	Stdout *os.File
}

// order is a ctl.* property on its way to the loop.
type order struct {
	action, service string
	reply           chan error
}

// phone is the state of init. Only Run's goroutine touches it, but for the store and the output, which are safe.
type phone struct {
	out      *output
	store    *property.Store
	services []*service
	children chan os.Signal
	term     <-chan struct{}
	orders   chan order
	power    *property.Subscription
	debug    *property.Subscription
	timer    *time.Timer
	started  unix.Timespec // since the host booted
	mayBoot  bool          // CAP_SYS_BOOT
	alone    bool          // no child is left
	ending   *ending
}

// Run is the life of a phone: it returns only with an error, before the first service has started. It must be pid 1: anything else is
// refused, because at the end every process that can be seen is killed.
func Run(ctx context.Context, cfg Config) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("init runs as pid 1 only, this is pid %d: %w", os.Getpid(), errdefs.ErrFailedPrecondition)
	}
	p, err := start(ctx, cfg)
	if err != nil {
		return err
	}
	for _, s := range p.services {
		p.start(s)
	}
	for {
		p.schedule()
		select {
		case <-p.children:
			p.reap()
		case <-p.term:
			p.terminated()
		case o := <-p.orders:
			o.reply <- p.obey(o)
		case <-p.power.Ready():
			p.powerChanged()
		case <-p.debug.Ready():
			p.debugChanged()
		case <-p.timer.C:
		}
	}
}

// start makes everything ready up to the first service.
func start(ctx context.Context, cfg Config) (*phone, error) {
	p := &phone{
		out:      newOutput(cfg.Stdout),
		store:    property.NewStore(),
		children: make(chan os.Signal, 1),
		orders:   make(chan order),
		timer:    time.NewTimer(0),
		mayBoot:  hasCapability(unix.CAP_SYS_BOOT),
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &p.started); err != nil {
		return nil, fmt.Errorf("read the clock: %w", err)
	}
	signal.Notify(p.children, unix.SIGCHLD)
	absorbSignals()
	p.out.printf("testphone %s, pid 1, started %s", cfg.Version, time.Now().UTC().Format(time.RFC3339Nano))
	term, err := openTerm(p.out)
	if err != nil {
		return nil, err
	}
	p.term = term
	p.loadProperties(cfg.Args)
	if err := p.openData(); err != nil {
		return nil, err
	}
	if err := p.listen(ctx); err != nil {
		return nil, err
	}
	p.power = p.store.Subscribe(powerctl)
	p.debug = p.store.Subscribe(floodProperty)
	for i := range cfg.Services {
		p.services = append(p.services, &service{Service: cfg.Services[i]})
	}
	return p, nil
}

// loadProperties fills the store from the arguments, which win, and from the image.
func (p *phone) loadProperties(args []string) {
	list, errs := property.ParseArgs(args)
	for _, err := range errs {
		p.out.printf("%v", err)
	}
	last := map[string]int{} // of several arguments for a name the last one counts
	for i, prop := range list {
		last[prop.Name] = i
	}
	for i, prop := range list {
		if last[prop.Name] == i {
			p.set(prop.Name, prop.Value)
		}
	}
	p.derive("ro.serialno", p.store.Get("ro.boot.serialno"))
	p.derive("ro.hardware", p.store.Get("ro.boot.hardware"))
	p.derive("ro.sf.lcd_density", p.store.Get("ro.boot.phonehost_dpi"))
	p.derive("ro.boottime.init", strconv.FormatInt(p.started.Nano(), 10))
	text, err := os.ReadFile(buildProp)
	if err != nil {
		p.out.printf("image properties: %v", err)
		return
	}
	list, errs = property.ParseBuildProp(string(text))
	for _, err := range errs {
		p.out.printf("%s: %v", buildProp, err)
	}
	for _, prop := range list {
		p.derive(prop.Name, prop.Value)
	}
}

// derive sets a property unless it is set already or there is nothing to set.
func (p *phone) derive(name, value string) {
	if value == "" || p.store.Get(name) != "" {
		return
	}
	p.set(name, value)
}

// set sets a property of init's own.
func (p *phone) set(name, value string) {
	if err := p.store.Set(name, value); err != nil {
		p.out.printf("%v", err)
	}
}

// openData makes the directories of /data and opens what is kept there.
func (p *phone) openData() error {
	_, err := os.Stat(filepath.Join(dataDir, "system"))
	first := os.IsNotExist(err)
	for _, dir := range []struct {
		name string
		mode os.FileMode
	}{
		{"app", 0o771}, {"data", 0o771}, {"local", 0o751}, {"local/tmp", 0o771}, {"misc", 0o771}, {"property", 0o700},
		{"user", 0o711}, {"system", 0o775},
	} {
		if err := makeDir(filepath.Join(dataDir, dir.name), dir.mode); err != nil {
			return fmt.Errorf("prepare %s: %w", dataDir, err)
		}
	}
	if err := linkUser(); err != nil {
		return fmt.Errorf("prepare %s: %w", dataDir, err)
	}
	if err := p.store.OpenPersistent(persistentFile); err != nil {
		p.out.printf("%v: they are set aside", err)
		if err := os.Rename(persistentFile, persistentFile+".damaged"); err != nil {
			return fmt.Errorf("set aside persistent properties: %w", err)
		}
		if err := p.store.OpenPersistent(persistentFile); err != nil {
			return err
		}
	}
	boots, _ := strconv.ParseUint(p.store.Get("persist.testphone.boots"), 10, 63)
	boots++
	if err := p.store.Set("persist.testphone.boots", strconv.FormatUint(boots, 10)); err != nil {
		return err
	}
	p.derive("sys.boot.reason.last", p.store.Get(bootReason))
	if first {
		p.derive("ro.testphone.first_boot", "1")
		p.out.printf("first boot of this /data")
		return nil
	}
	p.derive("ro.testphone.first_boot", "0")
	p.out.printf("boot %d of this /data", boots)
	return nil
}

// linkUser makes /data/user/0 a link to /data/data, as Android does. The directory that older testphones made there is empty.
func linkUser() error {
	path := filepath.Join(dataDir, "user/0")
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSymlink != 0 {
			return nil
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return os.Symlink("../data", path)
}

// makeDir makes a directory with exactly the mode, whatever the umask.
func makeDir(dir string, mode os.FileMode) error {
	if err := os.Mkdir(dir, mode); err != nil && !os.IsExist(err) {
		return err
	}
	return os.Chmod(dir, mode)
}

// listen starts the property service and the log socket.
func (p *phone) listen(ctx context.Context) error {
	if err := makeDir(filepath.Dir(property.SocketPath), 0o755); err != nil {
		return fmt.Errorf("prepare %s: %w", filepath.Dir(property.SocketPath), err)
	}
	os.Remove(property.SocketPath)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: property.SocketPath, Net: "unix"})
	if err != nil {
		return fmt.Errorf("property service: %w", err)
	}
	if err := os.Chmod(property.SocketPath, 0o666); err != nil {
		return fmt.Errorf("property service: %w", err)
	}
	server, err := property.NewServer(property.Config{Store: p.store, Control: p.control})
	if err != nil {
		return err
	}
	go func() {
		if err := server.Serve(ctx, l); err != nil {
			p.out.printf("%v", err)
		}
	}()
	return p.listenLog()
}
