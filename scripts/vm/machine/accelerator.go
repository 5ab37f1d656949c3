package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/lab"
)

// smokeTime is how long a kernel may take under KVM until its control program answers. Where KVM emulates the guest's
// instructions it takes minutes or never comes there.
const smokeTime = 8 * time.Second

// chooseAccelerator returns what to run the guest's code with. That KVM is there says little: a smoke boot must have worked,
// whose outcome is kept for this boot of the host, this QEMU and this kernel.
func (m *Machine) chooseAccelerator(ctx context.Context) (Accel, error) {
	switch m.config.Accelerator {
	case KVM, TCG:
		return m.config.Accelerator, nil
	case "":
	default:
		return "", fmt.Errorf("accelerator %q, want %s, %s or none: %w", m.config.Accelerator, KVM, TCG, errdefs.ErrInvalidArgument)
	}
	if m.config.Kernel.Arch != runtime.GOARCH || m.config.Variant.Counted {
		return TCG, nil
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG, nil // it is not there, or not for us
	}
	kvm.Close()
	return m.smoked(ctx)
}

// smoked returns the outcome of the smoke boot, made now if there is none.
func (m *Machine) smoked(ctx context.Context) (Accel, error) {
	dir, err := m.cacheInUse().Keep("kvm")
	if err != nil {
		return "", err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the name of this boot: %w", err)
	}
	key := asset.Hash(string(boot), m.emulator.version, m.config.Kernel.Release)
	file := filepath.Join(dir, string(key[:16]))
	known, err := os.ReadFile(file)
	if err == nil {
		return Accel(strings.TrimSpace(string(known))), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read whether KVM works: %w", err)
	}
	accel := KVM
	if err := m.smoke(ctx); err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		m.log.Info("KVM does not boot a kernel here: TCG is used", "reason", err)
		accel = TCG
	}
	if err := os.WriteFile(file, []byte(accel+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("keep whether KVM works: %w", err)
	}
	return accel, nil
}

// smoke boots the kernel alone under KVM, with the slot of the machine that asks.
func (m *Machine) smoke(ctx context.Context) error {
	m.log.Info("trying KVM", "at_most", smokeTime)
	config := m.config
	config.Accelerator, config.Root, config.Disk, config.Payload, config.MemoryMiB = KVM, lab.Root{}, "", "", 512
	config.Dir = m.dir.file("smoke")
	defer os.RemoveAll(config.Dir)
	dir, err := newDirectory(m.cacheInUse(), config.Dir)
	if err != nil {
		return err
	}
	smoke := &Machine{config: config, log: m.log, news: make(chan struct{}), emulator: m.emulator, accel: KVM, dir: dir}
	ctx, cancel := context.WithTimeoutCause(ctx, smokeTime, fmt.Errorf("no answer after %v", smokeTime))
	defer cancel()
	return errors.Join(smoke.start(ctx), smoke.Close())
}
