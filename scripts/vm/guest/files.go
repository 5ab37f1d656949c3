package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"golang.org/x/sys/unix"
)

// Put implements control.Handler. The file appears under its name when all of it is there.
func (h *handler) Put(_ context.Context, req control.Request, r io.Reader) error {
	if !filepath.IsAbs(req.Path) {
		return fmt.Errorf("path %q is not absolute: %w", req.Path, errdefs.ErrInvalidArgument)
	}
	dir := filepath.Dir(req.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".put-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Chmod(req.Mode.Perm())
	}
	if err = closed(f, err); err == nil {
		err = os.Rename(f.Name(), req.Path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Get implements control.Handler.
func (h *handler) Get(_ context.Context, req control.Request, w io.Writer) error {
	if !filepath.IsAbs(req.Path) {
		return fmt.Errorf("path %q is not absolute: %w", req.Path, errdefs.ErrInvalidArgument)
	}
	f, err := os.Open(req.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return err
	} else if info.IsDir() {
		return fmt.Errorf("%s is a directory: %w", req.Path, errdefs.ErrInvalidArgument)
	}
	_, err = io.Copy(w, f)
	return err
}

// Dial implements control.Handler.
func (h *handler) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "unix":
	default:
		return nil, fmt.Errorf("network %q is no network of streams, want tcp, tcp4, tcp6 or unix: %w", network, errdefs.ErrInvalidArgument)
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, network, address)
}

// Power implements control.Handler. In a system machine systemd stops everything in order.
func (h *handler) Power(_ context.Context, action string) (func() error, error) {
	var command int
	switch action {
	case control.PowerOff:
		command = unix.LINUX_REBOOT_CMD_POWER_OFF
	case control.Reboot:
		command = unix.LINUX_REBOOT_CMD_RESTART
	default:
		return nil, fmt.Errorf("action %q, want %q or %q: %w", action, control.PowerOff, control.Reboot, errdefs.ErrInvalidArgument)
	}
	if h.kind == kindSystem {
		return exec.Command("systemctl", action).Run, nil
	}
	return func() error {
		unix.Sync()
		return unix.Reboot(command)
	}, nil
}
