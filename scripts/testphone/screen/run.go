package screen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/phonehost/phonehost/scripts/testphone/paint"
	"github.com/phonehost/phonehost/scripts/testphone/property"
)

// SceneProperty chooses the scene, one of paint.Scenes; empty means motion.
const SceneProperty = "debug.testphone.scene"

// BootProperty makes the boot last longer, by a duration such as "3s" after the first frame.
const BootProperty = "debug.testphone.boot"

// Config is what Run needs.
type Config struct {
	// Stdout takes messages. Required.
	Stdout io.Writer
	// Properties is asked for settings and told that the phone has booted; nil for the service at its usual place.
	Properties *property.Client
	// Shown is called when the display has taken the first frame; nil sets sys.boot_completed.
	Shown func(ctx context.Context) error
	// Socket is the display's socket; empty for $XDG_RUNTIME_DIR/$WAYLAND_DISPLAY, by default /run/wayland/wayland-0.
	Socket string
}

// Run waits for the display's socket, connects, and shows the screen until ctx ends, when it returns nil, or the display goes away, when
// it returns an error: init then starts the composer again, as Android does.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Properties == nil {
		cfg.Properties = property.NewClient("")
	}
	if cfg.Socket == "" {
		cfg.Socket = socketPath()
	}
	if cfg.Shown == nil {
		cfg.Shown = func(ctx context.Context) error { return BootCompleted(ctx, cfg.Properties) }
	}
	set, err := readSettings(ctx, cfg.Properties)
	if err != nil {
		return err
	}
	socket, err := waitSocket(ctx, cfg.Socket, cfg.Stdout)
	if err != nil {
		return endOf(ctx, err)
	}
	s, err := newComposer(socket, set)
	if err != nil {
		socket.Close()
		return err
	}
	defer s.close()
	ctx, cancel := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	c := changes{scenes: make(chan string), apps: make(chan []string)}
	watcher.Go(func() { watchScene(ctx, cfg, c.scenes) })
	watcher.Go(func() { watchApps(ctx, cfg, c.apps) })
	err = s.run(ctx, c, func() error {
		fmt.Fprintf(cfg.Stdout, "screen: %dx%d at %g Hz, first frame shown\n", s.width, s.height, float64(s.milliHertz)/1000)
		return cfg.Shown(ctx)
	})
	return endOf(ctx, err)
}

// BootCompleted says that the phone has booted, later if BootProperty says so.
func BootCompleted(ctx context.Context, c *property.Client) error {
	text, err := c.Get(ctx, BootProperty)
	if err != nil {
		return err
	}
	if text != "" {
		longer, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%s: %w", BootProperty, err)
		}
		select {
		case <-time.After(longer):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(c.Set(ctx, "dev.bootcomplete", "1"), c.Set(ctx, "sys.boot_completed", "1"))
}

// endOf is nil when what ended is ctx.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func socketPath() string {
	dir, name := os.Getenv("XDG_RUNTIME_DIR"), os.Getenv("WAYLAND_DISPLAY")
	if dir == "" {
		dir = "/run/wayland"
	}
	if name == "" {
		name = "wayland-0"
	}
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// readSettings reads what the agent gave init, the same way for every profile of the display.
func readSettings(ctx context.Context, c *property.Client) (settings, error) {
	var set settings
	list, err := c.List(ctx)
	if err != nil {
		return set, err
	}
	values := make(map[string]string, len(list))
	for _, p := range list {
		values[p.Name] = p.Value
	}
	for name, to := range map[string]*int{"width": &set.width, "height": &set.height, "fps": &set.fps, "dpi": &set.dpi} {
		if text := values["ro.boot.phonehost_"+name]; text != "" {
			n, err := strconv.ParseUint(text, 10, 14)
			if err != nil {
				return set, fmt.Errorf("ro.boot.phonehost_%s: %w", name, err)
			}
			*to = int(n)
		}
	}
	if set.dpi == 0 {
		set.dpi, _ = strconv.Atoi(values["ro.sf.lcd_density"])
	}
	if set.name = values["ro.serialno"]; set.name == "" {
		if set.name, err = os.Hostname(); err != nil {
			return set, fmt.Errorf("name of the phone: %w", err)
		}
	}
	return set, nil
}

// watchScene passes on the scene whenever its property changes. It ends with ctx or the property service.
func watchScene(ctx context.Context, cfg Config, scenes chan<- string) {
	err := cfg.Properties.Watch(ctx, SceneProperty, func(p property.Property) {
		scene := p.Value
		if scene == "" {
			scene = "motion"
		}
		if p.Name != SceneProperty || !slices.Contains(paint.Scenes(), scene) {
			fmt.Fprintf(cfg.Stdout, "screen: %s=%s is none of %v\n", p.Name, p.Value, paint.Scenes())
			return
		}
		select {
		case scenes <- scene:
		case <-ctx.Done():
		}
	})
	if ctx.Err() == nil {
		fmt.Fprintf(cfg.Stdout, "screen: %v\n", err)
	}
}

// watchApps passes on which apps run whenever that changes. It ends with ctx or the property service.
func watchApps(ctx context.Context, cfg Config, apps chan<- []string) {
	err := cfg.Properties.Watch(ctx, AppsProperty, func(p property.Property) {
		if p.Name != AppsProperty {
			return
		}
		select {
		case apps <- splitApps(p.Value):
		case <-ctx.Done():
		}
	})
	if ctx.Err() == nil {
		fmt.Fprintf(cfg.Stdout, "screen: %v\n", err)
	}
}

// connectUnix connects to a socket.
func connectUnix(path string) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}
