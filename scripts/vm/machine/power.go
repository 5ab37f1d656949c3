package machine

import (
	"context"
	"fmt"

	"github.com/phonehost/phonehost/scripts/vm/control"
)

// Reset resets the computer, as its button does: nothing in the guest is told. WaitBoot waits for the boot that follows.
func (m *Machine) Reset(ctx context.Context) error {
	return m.qmp.Call(ctx, "system_reset", nil, nil)
}

// PowerCut ends QEMU at once: what the guest has not synced is lost, Config.Disk stays as it is. It returns when QEMU has
// ended. The machine is over; Close it before another is started with the disk.
func (m *Machine) PowerCut() {
	m.change(func() { m.cause = "power cut" })
	m.process.kill()
}

// PowerOff turns the guest off in order and waits for QEMU's end.
func (m *Machine) PowerOff(ctx context.Context) error {
	if err := m.with(func(c *control.Client) error { return c.Power(ctx, control.PowerOff) }); err != nil {
		return err
	}
	select {
	case <-m.process.exited:
		return nil
	case <-ctx.Done():
		return m.withSerial(fmt.Errorf("wait for the guest to turn off: %w", context.Cause(ctx)))
	}
}

// Reboot restarts the guest in order. WaitBoot waits for the boot that follows.
func (m *Machine) Reboot(ctx context.Context) error {
	return m.with(func(c *control.Client) error { return c.Power(ctx, control.Reboot) })
}

// WaitBoot waits until the guest answers in a boot later than the one that Start, Resume or the last WaitBoot returned for, a
// system machine until systemd has started all that it starts. It does not matter whether that boot began before the call. It
// ends with ctx, with the end of the serial log in the error, or when QEMU ends.
func (m *Machine) WaitBoot(ctx context.Context) error {
	if err := m.booted(ctx, func() error { return nil }); err != nil {
		return fmt.Errorf("wait for the guest's next boot: %w", m.withSerial(err))
	}
	return nil
}
