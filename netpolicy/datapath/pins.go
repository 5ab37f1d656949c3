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

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
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
	if err := onBPF(string(p)); err != nil {
		return err
	}
	for _, sub := range []string{"programs", "links", "draining"} {
		if err := os.MkdirAll(filepath.Join(p.dir(), sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// onBPF makes sure that pins can be made in a directory, which need not be there yet.
func onBPF(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("pins in %q: the path must begin at the root: %w", dir, errdefs.ErrInvalidArgument)
	}
	if strings.Contains(dir, ".") {
		return fmt.Errorf("pins in %q: a BPF file system has no names with dots: %w", dir, errdefs.ErrInvalidArgument)
	}
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if uint32(st.Type) != unix.BPF_FS_MAGIC {
			return fmt.Errorf("%s is on no BPF file system (mount -t bpf bpf /sys/fs/bpf): %w", dir, errdefs.ErrFailedPrecondition)
		}
		return nil
	}
}

// lock makes this process the owner of the pins until the file is closed. errdefs.ErrUnavailable: another one is.
func (p pins) lock() (*os.File, error) {
	f, err := os.Open(string(p))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s belongs to another process: %w", string(p), errdefs.ErrUnavailable)
		}
		return nil, fmt.Errorf("lock %s: %w", string(p), err)
	}
	return f, nil
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

// removePin removes a pin; that it is not there is no error.
func removePin(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Lock keeps Datapaths from being opened in a directory, for whoever removes it, until the returned file is closed. fs.ErrNotExist: there is
// no such directory; errdefs.ErrUnavailable: a Datapath is open.
func Lock(dir string) (io.Closer, error) {
	f, err := pins(filepath.Clean(dir)).lock()
	if err != nil {
		return nil, fmt.Errorf("datapath: %w", err)
	}
	return f, nil
}

// Remove removes all pins of a directory: links that were pinned there decide nothing any more. It is for a host from which phonehost is
// removed, and for tests; a Datapath that is open must be closed before, and the phones' devices be gone.
func Remove(dir string) error {
	if err := onBPF(dir); err != nil {
		return fmt.Errorf("datapath: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("datapath: %w", err)
	}
	return nil
}
