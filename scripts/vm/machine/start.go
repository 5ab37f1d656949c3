package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/control"
)

// bootTime bounds a boot whose context has no deadline, or a later one.
const bootTime = 10 * time.Minute

// Start boots a machine and returns when its control session answers, a system machine's when systemd has started all that it
// starts. It waits for a slot, and says so in the log. A boot that fails, or is not over when ctx ends, is an error with the end
// of the serial log; QEMU or a file that is not there is errdefs.ErrNotFound.
//
// The machine lives until Close, whatever becomes of ctx.
func Start(ctx context.Context, config Config) (*Machine, error) {
	m, err := prepare(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := m.start(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// prepare makes a machine that has its slot and its directory, and has not been started.
func prepare(ctx context.Context, config Config) (*Machine, error) {
	config, err := config.checked()
	if err != nil {
		return nil, err
	}
	m := &Machine{config: config, log: config.Logger, news: make(chan struct{})}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if m.emulator, err = findEmulator(ctx, config.Kernel.Arch); err != nil {
		return nil, err
	}
	if err := m.acquire(ctx); err != nil {
		return nil, errors.Join(err, m.release())
	}
	if m.accel, err = m.chooseAccelerator(ctx); err != nil {
		return nil, errors.Join(err, m.release())
	}
	return m, nil
}

// acquire takes what the machine needs of the host.
func (m *Machine) acquire(ctx context.Context) error {
	cache := m.config.Cache
	if cache == nil {
		var err error
		if cache, err = asset.Open("", m.log); err != nil {
			return err
		}
		m.cache = cache
	}
	waiting := func(holders string) {
		m.log.Info("waiting for a machine to end", "at_once", Slots, "holders", holders)
	}
	var err error
	if m.slot, err = takeSlot(ctx, cmp.Or(m.config.slots, hostSlots), Slots, waiting); err != nil {
		return fmt.Errorf("wait for one of %d machines that run at once: %w", Slots, err)
	}
	m.dir, err = newDirectory(cache, m.config.Dir)
	return err
}

// start boots a prepared machine.
func (m *Machine) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTime, fmt.Errorf("the boot was not over after %v", bootTime))
	defer cancel()
	began := time.Now()
	disk, err := m.disk(ctx)
	if err != nil {
		return err
	}
	if err := makePayload(m.config.Payload, m.dir.file(payloadFile)); err != nil {
		return err
	}
	if err := m.launch(ctx, disk); err != nil {
		return fmt.Errorf("start a machine with kernel %s: %w", m.config.Kernel.Release, err)
	}
	if err := m.booted(ctx, func() error { return m.firstBoot() }); err != nil {
		return fmt.Errorf("boot kernel %s for %s: %w", m.config.Kernel.Release, m.config.Kernel.Arch, m.withSerial(err))
	}
	m.log.Info("machine started", "arch", m.config.Kernel.Arch, "kernel", m.config.Kernel.Release, "kind", m.config.kind(),
		"accelerator", string(m.accel), "seconds", time.Since(began).Seconds())
	return nil
}

// disk returns the overlay of the root, made if it is absent; "" for a kernel machine.
func (m *Machine) disk(ctx context.Context) (string, error) {
	if !m.config.system() {
		return "", nil
	}
	path := m.config.Disk
	if path == "" {
		path = m.dir.file(diskFile)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	return path, makeOverlay(ctx, path, m.config.Root.Image, "raw")
}

// firstBoot says that a guest which restarts before it ever answered will not do better. It is called with mu held.
func (m *Machine) firstBoot() error {
	if m.boots == 0 && m.resets > 0 {
		return errors.New("the guest restarted before it answered")
	}
	return nil
}

// booted waits for the session of a boot that nobody has waited for, and for systemd in it.
func (m *Machine) booted(ctx context.Context, hopeless func() error) error {
	for {
		var client *control.Client
		boot := 0
		err := m.wait(ctx, func() (bool, error) {
			client, boot = m.client, m.boots
			return client != nil && m.boots > m.waited, hopeless()
		})
		if err != nil {
			return err
		}
		if m.config.system() {
			err = m.settled(ctx, client)
		}
		if err == nil {
			m.change(func() { m.waited = max(m.waited, boot) })
			return nil
		}
		select {
		case <-client.Done(): // it restarts: this was not the boot to wait for
		case <-m.process.exited:
			return m.ended()
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
			return err
		}
	}
}

// settled waits until systemd has carried out all jobs of its start. Units that failed are told in the log, not as an error:
// what they matter, the caller knows.
func (m *Machine) settled(ctx context.Context, client *control.Client) error {
	var out strings.Builder
	_, err := client.Exec(ctx, control.Command{Args: []string{"systemctl", "is-system-running", "--wait"}, Stdout: &out, Stderr: &out})
	if err != nil {
		return fmt.Errorf("wait for systemd: %w", err)
	}
	switch state := strings.TrimSpace(out.String()); state {
	case "running":
		return nil
	case "degraded":
		out.Reset()
		_, err := client.Exec(ctx, control.Command{Args: []string{"systemctl", "--failed", "--plain", "--no-legend"}, Stdout: &out})
		if err != nil {
			return fmt.Errorf("ask systemd for failed units: %w", err)
		}
		m.log.Warn("units failed", "units", strings.TrimSpace(out.String()))
		return nil
	default:
		return fmt.Errorf("wait for systemd: it is %q, want running", state)
	}
}
