package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/binder"
	"github.com/phonehost/phonehost/runtime/displayroot"
	"github.com/phonehost/phonehost/runtime/ocispec"
	"github.com/phonehost/phonehost/runtime/profile"
)

// Specs returns the OCI specs that a start of the phone would use now. In the guest's the source of /data is the image file; a start
// puts the loop device there that it attaches. Where a start would be refused for want of binder devices, so is this.
func (e *Engine) Specs(ctx context.Context, p Phone) (guest, display *specs.Spec, err error) {
	if !validID(p.ID) {
		return nil, nil, fmt.Errorf("phone id %q: %w", p.ID, errdefs.ErrInvalidArgument)
	}
	devices, release, err := e.claimBinder(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	release()
	if guest, err = e.guestSpec(p, e.dataImage(p.ID, p.DataGeneration), devices); err != nil {
		return nil, nil, err
	}
	root, err := e.displayRoot(ctx)
	if err != nil {
		return nil, nil, err
	}
	if display, err = e.displaySpec(p, root); err != nil {
		return nil, nil, err
	}
	return guest, display, nil
}

func (e *Engine) guestSpec(p Phone, dataDevice string, devices binder.Grant) (*specs.Spec, error) {
	prof, err := profile.Get(p.Profile)
	if err != nil {
		return nil, err
	}
	render, err := e.renderNode()
	if err != nil {
		return nil, err
	}
	return ocispec.BuildGuest(ocispec.Guest{
		ID: p.ID, Arch: runtime.GOARCH, Profile: prof,
		Boot:        e.boot(p),
		CgroupsPath: e.cgroups.GuestPath(p.ID),
		NetNS:       filepath.Join(e.config.NetNSDir, p.ID),
		WaylandDir:  e.waylandDir(p.ID),
		FilesDir:    e.filesDir(p.ID),
		DataDevice:  dataDevice,
		RenderNode:  render,
		Binder:      devices,
		Limits: ocispec.Limits{
			CPUs: p.VCPUs, MemoryBytes: p.MemoryBytes, SwapAccounting: e.cgroups.SwapAccounting(), PIDs: prof.MaxPIDs, Files: e.config.MaxFiles,
			Nice: e.config.MaxNice,
		},
	})
}

// boot is what the guest's arguments and files depend on.
func (e *Engine) boot(p Phone) profile.Boot {
	return profile.Boot{
		ID: p.ID, Width: p.Display.Width, Height: p.Display.Height, DPI: p.Display.DPI, FPS: p.Display.FPS, DNS: p.DNS,
		RenderNode: e.config.RenderNode, Properties: p.Properties,
	}
}

// renderNode looks the configured render node up; nil without one.
func (e *Engine) renderNode() (*ocispec.Device, error) {
	if e.config.RenderNode == "" {
		return nil, nil
	}
	node, err := device(e.config.RenderNode)
	if err != nil {
		return nil, fmt.Errorf("render node: %w", err)
	}
	if node.Block {
		return nil, fmt.Errorf("render node: %s is a block device: %w", node.Path, errdefs.ErrInvalidArgument)
	}
	return &node, nil
}

const displayPIDs = 256

func (e *Engine) displaySpec(p Phone, root string) (*specs.Spec, error) {
	prof, err := profile.Get(p.Profile)
	if err != nil {
		return nil, err
	}
	devices, err := e.encoderDevices()
	if err != nil {
		return nil, err
	}
	number := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	args := []string{
		displayroot.Program, "--wayland-dir", ocispec.DisplayWaylandDir, "--control-dir", ocispec.DisplayControlDir,
		"--width", number(p.Display.Width), "--height", number(p.Display.Height), "--fps", number(p.Display.FPS), "--dpi", number(p.Display.DPI),
	}
	if len(prof.Globals) > 0 {
		args = append(args, "--globals", strings.Join(prof.Globals, ","))
	}
	return ocispec.BuildDisplay(ocispec.Display{
		Group: p.ID, Arch: runtime.GOARCH, UID: e.displayUID(p), Root: root,
		WaylandDir: e.waylandDir(p.ID), ControlDir: e.controlDir(p.ID), CgroupsPath: e.cgroups.DisplayPath(p.ID),
		Args:    append(args, e.config.DisplayArgs...),
		Devices: devices,
		Limits: ocispec.Limits{
			MemoryBytes: e.config.DisplayMemoryBytes, SwapAccounting: e.cgroups.SwapAccounting(), PIDs: displayPIDs, Files: min(4096, e.config.MaxFiles),
		},
	})
}

// encoderDevices looks the configured device nodes up. One that is not there is an error: the display would miss its encoder.
func (e *Engine) encoderDevices() ([]ocispec.Device, error) {
	var devices []ocispec.Device
	for _, path := range e.config.DisplayDevices {
		node, err := device(path)
		if err != nil {
			return nil, fmt.Errorf("encoder device: %w", err)
		}
		devices = append(devices, node)
	}
	return devices, nil
}

// device looks a device node up.
func device(path string) (ocispec.Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ocispec.Device{}, fmt.Errorf("%s: %w", path, err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFCHR && kind != unix.S_IFBLK {
		return ocispec.Device{}, fmt.Errorf("%s is no device node: %w", path, errdefs.ErrInvalidArgument)
	}
	return ocispec.Device{
		Path: path, Block: kind == unix.S_IFBLK, Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
	}, nil
}

// displayProgram remembers which root was assembled for the display's binary as it was then.
type displayProgram struct {
	size     int64
	modified int64 // nanoseconds
	inode    uint64
	root     string
}

// displayRoot returns the root directory for new displays. It is assembled when the binary is first used and when it was replaced.
func (e *Engine) displayRoot(ctx context.Context) (string, error) {
	if e.config.DisplayBinary == "" {
		return "", fmt.Errorf("this engine starts no displays: %w", errdefs.ErrFailedPrecondition)
	}
	info, err := os.Stat(e.config.DisplayBinary)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the display's program %s is not installed; install it or set display.binary in the configuration: %w", e.config.DisplayBinary, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return "", fmt.Errorf("the display's program: %w", err)
	}
	now := displayProgram{size: info.Size(), modified: info.ModTime().UnixNano(), inode: info.Sys().(*syscall.Stat_t).Ino}
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.root = e.display.root; now == e.display {
		if _, err := os.Stat(now.root); err == nil {
			return now.root, nil
		}
	}
	out, err := exec.CommandContext(ctx, e.config.DisplayBinary, "libraries").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its libraries: %w", e.config.DisplayBinary, err)
	}
	now.root, err = displayroot.Assemble(ctx, displayroot.Config{
		Dir: e.displayRoots(), Binary: e.config.DisplayBinary, Sonames: displayroot.Sonames(string(out)),
	})
	if err != nil {
		return "", err
	}
	e.display = now
	return now.root, nil
}

// pruneDisplayRoots assembles the root of the present binary, so that no start waits for it, and removes those that no display uses.
func (e *Engine) pruneDisplayRoots(ctx context.Context) error {
	current, err := e.displayRoot(ctx)
	if err != nil {
		e.log.Warn("displays cannot be started", "error", err)
	}
	used := []string{current}
	list, err := e.client.ContainerService().List(ctx, "labels."+strconv.Quote(labelRole)+"=="+strconv.Quote(Display.String()))
	if err != nil {
		return fmt.Errorf("list the displays: %w", unavailable(err))
	}
	for _, c := range list {
		used = append(used, filepath.Join(e.displayRoots(), c.Labels[labelVersion]))
	}
	if err := displayroot.Prune(e.displayRoots(), used); err != nil {
		e.log.Warn("unused display roots stay", "error", err)
	}
	return nil
}
