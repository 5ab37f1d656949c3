package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// attachLinks attaches by TCX. The error wraps ebpf.ErrNotSupported where the kernel has none.
func (d *Datapath) attachLinks(id string, ifindex int) error {
	for _, s := range sides {
		if err := d.attachLink(id, s, ifindex); err != nil {
			return fmt.Errorf("%s: %w", s.program, err)
		}
	}
	return nil
}

func (d *Datapath) attachLink(id string, s side, ifindex int) error {
	adopted, err := d.adoptLink(id, s, ifindex)
	if adopted || err != nil {
		return err
	}
	l, err := d.newLink(s, ifindex)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Pin(linkPin(d.pins.dir(), id, s))
}

// newLink attaches a program first of all on a link: none that runs before it could let a packet pass. Of a process that was killed
// before it had pinned its link, the kernel takes the link away in its own time; until then the same program cannot be there twice.
func (d *Datapath) newLink(s side, ifindex int) (l link.Link, err error) {
	options := link.TCXOptions{Interface: ifindex, Program: d.programs.byName[s.program], Attach: s.tcx, Anchor: link.Head()}
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		if l, err = link.AttachTCX(options); !errors.Is(err, unix.EEXIST) {
			break
		}
		time.Sleep(wait)
	}
	return l, err
}

// adoptLink finds the link that is pinned, in the directory of any layout, and gives it this program. One without a device is removed.
func (d *Datapath) adoptLink(id string, s side, ifindex int) (adopted bool, err error) {
	l, path, err := d.openLink(id, s)
	if l == nil || err != nil {
		return false, err
	}
	defer l.Close()
	at, program, err := linkState(l)
	switch {
	case err != nil:
		return false, err
	case at == 0:
		return false, pinned.Unpin(path)
	case at != ifindex:
		return false, fmt.Errorf("the phone's program is on link %d, which is still there: %w", at, errdefs.ErrFailedPrecondition)
	}
	if program != d.programs.ids[s.program] {
		if err := l.Update(d.programs.byName[s.program]); err != nil {
			return false, fmt.Errorf("replace the program: %w", err)
		}
		d.log.Info("a phone's program was replaced", "phone_id", id, "program", s.program, "version", d.version)
	}
	if err := l.Pin(linkPin(d.pins.dir(), id, s)); err != nil { // a move, from another layout's directory
		return false, err
	}
	return true, nil
}

// openLink opens a phone's link, nil for none.
func (d *Datapath) openLink(id string, s side) (l link.Link, path string, err error) {
	others, err := d.pins.others()
	if err != nil {
		return nil, "", err
	}
	for _, dir := range append([]string{d.pins.dir()}, others...) {
		path := linkPin(dir, id, s)
		l, err := link.LoadPinnedLink(path, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", fmt.Errorf("pinned link %s: %w", path, err)
		}
		return l, path, nil
	}
	return nil, "", nil
}

// linkState returns a link's device, 0 for one that is gone, and its program.
func linkState(l link.Link) (ifindex int, program uint32, err error) {
	info, err := l.Info()
	if err != nil {
		return 0, 0, err
	}
	tcx := info.TCX()
	if tcx == nil {
		return 0, 0, fmt.Errorf("a pinned link is of type %v: %w", info.Type, errdefs.ErrFailedPrecondition)
	}
	return int(tcx.Ifindex), uint32(info.Program), nil
}

// linked returns the phones that have pinned links.
func (d *Datapath) linked() (map[string]int, error) {
	others, err := d.pins.others()
	if err != nil {
		return nil, err
	}
	all := map[string]int{}
	for _, dir := range append([]string{d.pins.dir()}, others...) {
		entries, err := os.ReadDir(filepath.Join(dir, "links"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			id, _, found := strings.Cut(e.Name(), "_")
			if !found {
				continue
			}
			ifindex, err := pinnedAt(filepath.Join(dir, "links", e.Name()))
			if err != nil {
				return nil, err
			}
			all[id] = max(all[id], ifindex)
		}
	}
	return all, nil
}

// linkedTo returns the device of a phone's pinned links, 0 for none or one that is gone.
func (d *Datapath) linkedTo(id string) (ifindex int, err error) {
	for _, s := range sides {
		l, _, err := d.openLink(id, s)
		if err != nil {
			return 0, err
		}
		if l == nil {
			continue
		}
		at, _, err := linkState(l)
		l.Close()
		if err != nil {
			return 0, err
		}
		ifindex = max(ifindex, at)
	}
	return ifindex, nil
}

func pinnedAt(path string) (ifindex int, err error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return 0, fmt.Errorf("pinned link %s: %w", path, err)
	}
	defer l.Close()
	ifindex, _, err = linkState(l)
	return ifindex, err
}

// removeLinks detaches a phone's links and removes their pins.
func (d *Datapath) removeLinks(id string) error {
	others, err := d.pins.others()
	if err != nil {
		return err
	}
	for _, dir := range append([]string{d.pins.dir()}, others...) {
		for _, s := range sides {
			if err := removeLink(linkPin(dir, id, s)); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeLink detaches a link at once: without its pin it would go in the kernel's own time.
func removeLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pinned link %s: %w", path, err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("detach %s: %w", path, err)
	}
	return pinned.Unpin(path)
}
