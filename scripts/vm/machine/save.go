package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/asset"
)

// Names in a snapshot's directory.
const (
	memoryFile   = "memory"
	snapshotFile = "snapshot.json"
)

// Fingerprint is what a snapshot depends on: the QEMU and its devices, the kernel and its command line, the initrd, the root.
// A snapshot is resumed with a Config of the same fingerprint; Payload, Dir and Logger do not count.
func Fingerprint(ctx context.Context, config Config) (asset.Key, error) {
	config, err := config.checked()
	if err != nil {
		return "", err
	}
	e, err := findEmulator(ctx, config.Kernel.Arch)
	if err != nil {
		return "", err
	}
	// Snapshots are of TCG alone: where KVM works, a boot takes no longer than the reading of a snapshot.
	return config.fingerprint(e), nil
}

func (c Config) fingerprint(e emulator) asset.Key {
	parts := append([]string{"snapshot 1", e.version, string(c.Kernel.Key), c.Kernel.Image, string(c.Initrd.Key), c.Initrd.Path, string(c.Root.Key), c.Root.Image}, c.devices(e, TCG)...)
	return asset.Hash(parts...)
}

// Save writes the machine's memory and, of a system machine, its disk to dir, which must be empty or absent, and ends the
// machine: only Close is left to do. It is errdefs.ErrFailedPrecondition for a machine with Config.Disk, which nobody else may
// write to while a snapshot of it is in use, and under KVM, whose guests are not resumed elsewhere.
func (m *Machine) Save(ctx context.Context, dir string) (Snapshot, error) {
	if m.config.Disk != "" {
		return Snapshot{}, fmt.Errorf("save a machine that keeps its disk %s: start it without Disk: %w", m.config.Disk, errdefs.ErrFailedPrecondition)
	}
	if m.accel != TCG {
		return Snapshot{}, fmt.Errorf("save a machine under %s: start it with Accelerator %s: %w", m.accel, TCG, errdefs.ErrFailedPrecondition)
	}
	began := time.Now()
	s := Snapshot{Dir: dir, Fingerprint: string(m.config.fingerprint(m.emulator))}
	if err := m.save(ctx, s); err != nil {
		return Snapshot{}, fmt.Errorf("save a machine to %s: %w", dir, err)
	}
	m.log.Info("machine saved", "dir", dir, "seconds", time.Since(began).Seconds())
	return s, nil
}

func (m *Machine) save(ctx context.Context, s Snapshot) error {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	if err := m.hangUp(ctx); err != nil {
		return err
	}
	if err := m.qmp.Call(ctx, "stop", nil, nil); err != nil {
		return err
	}
	if err := m.migrate(ctx, filepath.Join(s.Dir, memoryFile)); err != nil {
		return err
	}
	if err := m.qmp.Call(ctx, "quit", nil, nil); err != nil && !errors.Is(err, errdefs.ErrUnavailable) {
		return err
	}
	quit, cancel := context.WithTimeout(ctx, quitTime)
	defer cancel()
	m.process.stop(quit)
	if m.config.system() {
		if err := os.Rename(m.dir.file(diskFile), filepath.Join(s.Dir, diskFile)); err != nil {
			if err := copyFile(m.dir.file(diskFile), filepath.Join(s.Dir, diskFile)); err != nil {
				return err
			}
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir, snapshotFile), data, 0o644)
}

// hangUp ends the control session and waits until the guest, which opens the port anew then, waits for the next one.
func (m *Machine) hangUp(ctx context.Context) error {
	m.mu.Lock()
	port, client := m.port, m.client
	m.mu.Unlock()
	if client == nil {
		return fmt.Errorf("the guest does not answer: %w", errdefs.ErrUnavailable)
	}
	m.stopLink()
	return m.wait(ctx, func() (bool, error) { return m.port.open && m.port.changes > port.changes, nil })
}

// migrate writes the state of the stopped machine to a file.
func (m *Machine) migrate(ctx context.Context, path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	return m.move(ctx, "migrate", file)
}

// move carries out a migration through a file, "migrate" out of the machine or "migrate-incoming" into it, and waits for its end.
func (m *Machine) move(ctx context.Context, command string, file *os.File) error {
	if err := m.fastMigration(ctx); err != nil {
		return err
	}
	if err := m.qmp.SendFile(ctx, "memory", file); err != nil {
		return err
	}
	if err := m.qmp.Call(ctx, command, map[string]string{"uri": "fd:memory"}, nil); err != nil {
		return err
	}
	return m.migrated(ctx)
}

// fastMigration makes QEMU tell how a migration goes, and not hold it back for the good of a network.
func (m *Machine) fastMigration(ctx context.Context) error {
	capabilities := []map[string]any{{"capability": "events", "state": true}}
	if err := m.qmp.Call(ctx, "migrate-set-capabilities", map[string]any{"capabilities": capabilities}, nil); err != nil {
		return err
	}
	return m.qmp.Call(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": int64(1) << 40}, nil)
}

// migrated waits for the end of a migration.
func (m *Machine) migrated(ctx context.Context) error {
	return m.wait(ctx, func() (bool, error) {
		switch m.migration {
		case "completed":
			return true, nil
		case "failed", "cancelled":
			return false, fmt.Errorf("QEMU's migration %s: %s", m.migration, strings.TrimSpace(m.process.stderr.String()))
		}
		return false, nil
	})
}

// Load reads what Save left in a directory.
func Load(dir string) (Snapshot, error) {
	data, err := os.ReadFile(filepath.Join(dir, snapshotFile))
	if err != nil {
		return Snapshot{}, fmt.Errorf("read snapshot: %w", err)
	}
	s := Snapshot{Dir: dir}
	if err := json.Unmarshal(data, &s); err != nil {
		return Snapshot{}, fmt.Errorf("decode snapshot %s: %w", dir, err)
	}
	return s, nil
}

// Resume continues a saved machine, with the present time on its clock, new random numbers and config's payload. Any number of
// machines may be resumed from one snapshot, none of which changes it. It is errdefs.ErrFailedPrecondition if the config is of
// another fingerprint.
func Resume(ctx context.Context, config Config, s Snapshot) (*Machine, error) {
	if config.Disk != "" {
		return nil, fmt.Errorf("resume a machine with disk %s, whose content its memory does not know: %w", config.Disk, errdefs.ErrFailedPrecondition)
	}
	config.Accelerator = TCG
	m, err := prepare(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := m.resume(ctx, s); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Machine) resume(ctx context.Context, s Snapshot) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTime, fmt.Errorf("the guest did not answer within %v", bootTime))
	defer cancel()
	began := time.Now()
	if now := string(m.config.fingerprint(m.emulator)); now != s.Fingerprint {
		return fmt.Errorf("resume snapshot %s of fingerprint %.16s with a config of %.16s: %w", s.Dir, s.Fingerprint, now, errdefs.ErrFailedPrecondition)
	}
	disk := ""
	if m.config.system() {
		disk = m.dir.file(diskFile)
		if err := makeOverlay(ctx, disk, filepath.Join(s.Dir, diskFile), "qcow2"); err != nil {
			return err
		}
	}
	if err := makePayload(m.config.Payload, m.dir.file(payloadFile)); err != nil {
		return err
	}
	if err := m.launch(ctx, disk, "-incoming", "defer"); err != nil {
		return fmt.Errorf("resume snapshot %s: %w", s.Dir, err)
	}
	if err := m.load(ctx, s); err != nil {
		return fmt.Errorf("resume snapshot %s: %w", s.Dir, m.withSerial(err))
	}
	m.log.Info("machine resumed", "arch", m.config.Kernel.Arch, "kernel", m.config.Kernel.Release, "kind", m.config.kind(), "seconds", time.Since(began).Seconds())
	return nil
}

// load reads the snapshot into the waiting QEMU, lets the guest go on and brings it up to date.
func (m *Machine) load(ctx context.Context, s Snapshot) error {
	file, err := os.Open(filepath.Join(s.Dir, memoryFile))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := m.move(ctx, "migrate-incoming", file); err != nil {
		return err
	}
	if err := m.qmp.Call(ctx, "cont", nil, nil); err != nil {
		return err
	}
	err = m.wait(ctx, func() (bool, error) { return m.client != nil, nil })
	if err != nil {
		return err
	}
	m.change(func() { m.waited = m.boots })
	client, _, err := m.current()
	if err != nil || m.config.Payload == "" {
		return err
	}
	return client.Unpack(ctx)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Close())
}
