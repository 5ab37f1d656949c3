package datapath

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// layout is LAYOUT of layout.h.
const layout = 1

// pins are the paths below a Config's Dir.
type pins string

func (p pins) dir() string                    { return layoutDir(string(p), layout) }
func (p pins) mapPin(name string) string      { return filepath.Join(p.dir(), name) }
func (p pins) programs(version string) string { return filepath.Join(p.dir(), "programs", version) }
func (p pins) draining(slot uint32) string {
	return filepath.Join(p.dir(), "draining", strconv.FormatUint(uint64(slot), 10))
}

func layoutDir(dir string, layout int) string { return filepath.Join(dir, "v"+strconv.Itoa(layout)) }

// linkPin is the pin of a phone's link in the directory of a layout.
func linkPin(layoutDir, id string, s side) string {
	return filepath.Join(layoutDir, "links", id+"_"+s.name)
}

// make makes the directories. An error has class errdefs.ErrFailedPrecondition where there is no BPF file system.
func (p pins) make() error {
	if err := pinned.OnBPF(string(p)); err != nil {
		return err
	}
	for _, sub := range []string{"programs", "links", "draining"} {
		if err := os.MkdirAll(filepath.Join(p.dir(), sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// others returns the directories of other layouts.
func (p pins) others() ([]string, error) {
	entries, err := os.ReadDir(string(p))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		number, found := strings.CutPrefix(e.Name(), "v")
		if n, err := strconv.Atoi(number); found && err == nil && n != layout {
			all = append(all, filepath.Join(string(p), e.Name()))
		}
	}
	return all, nil
}

// removeOthers removes the directories of other layouts whose links are all gone: moved here, or removed.
func (p pins) removeOthers() error {
	others, err := p.others()
	if err != nil {
		return err
	}
	for _, dir := range others {
		links, err := os.ReadDir(filepath.Join(dir, "links"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(links) > 0 {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// Lock keeps Datapaths from being opened in a directory, for whoever removes it, until what is returned is closed. fs.ErrNotExist: there is
// no such directory; errdefs.ErrUnavailable: a Datapath is open.
func Lock(dir string) (io.Closer, error) {
	f, err := pinned.Own(filepath.Clean(dir))
	if err != nil {
		return nil, fmt.Errorf("datapath: %w", err)
	}
	return f, nil
}

// Remove removes all pins of a directory: links that were pinned there decide nothing any more. It is for a host from which phonehost is
// removed, and for tests; a Datapath that is open must be closed before, and the phones' devices be gone.
func Remove(dir string) error {
	if err := pinned.OnBPF(dir); err != nil {
		return fmt.Errorf("datapath: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("datapath: %w", err)
	}
	return nil
}
