package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// version names the pins of the programs. It grows with every change of what they do.
const version = "3"

// maxGuests is how many guests can be protected at once.
const maxGuests = 4096

// Config says where things are.
type Config struct {
	// Dir is the directory of the pins, on a BPF file system: "/sys/fs/bpf/phonehost".
	Dir string
	// Level is the depth of the cgroups that Protect takes, below the root of cgroup v2: 3 for /phonehost/p1/guest.
	Level int
}

// Guard is the programs, attached.
type Guard struct {
	guests *ebpf.Map
	links  []link.Link
}

// Open attaches the programs, or finds them attached, and makes sure that they are obeyed. The error says what the kernel lacks, with
// class errdefs.ErrNotImplemented for one that cannot guard. Close leaves all in force.
func Open(c Config) (_ *Guard, err error) {
	if c.Level < 1 {
		return nil, fmt.Errorf("guard: cgroups at level %d: %w", c.Level, errdefs.ErrInvalidArgument)
	}
	if err := onBPF(filepath.Dir(c.Dir)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	maps, err := openMaps(c.Dir)
	if err != nil {
		return nil, lacking(err)
	}
	defer maps.close()
	g := &Guard{guests: maps.guests}
	defer func() {
		if err != nil {
			g.Close()
		}
	}()
	suffix := fmt.Sprintf("v%s-level%d", version, c.Level)
	if g.links, err = openLinks(c.Dir, suffix, func() ([]program, error) { return programs(maps, c.Level) }); err != nil {
		return nil, lacking(err)
	}
	if err := maps.try(); err != nil {
		return nil, err
	}
	if err := unpinOthers(c.Dir, suffix); err != nil {
		return nil, err
	}
	return g, nil
}

// onBPF makes sure that pins can be made in a directory.
func onBPF(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("guard: %s: %w", dir, err)
	}
	if uint32(st.Type) != unix.BPF_FS_MAGIC {
		return fmt.Errorf("guard: %s is no BPF file system (mount -t bpf bpf %s): %w", dir, dir, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// lacking classes what a kernel says that cannot guard.
func lacking(err error) error {
	return fmt.Errorf("guard: the kernel does not take the programs, which need BPF LSM, BTF and Linux 5.17 (arm64: 6.4): %w: %w", err, errdefs.ErrNotImplemented)
}

// Protect makes the programs judge every process in a cgroup of the configured level, by its id in cgroup v2, and below. That it is
// protected already is no error.
func (g *Guard) Protect(cgroup uint64) error {
	if err := g.guests.Put(cgroup, uint8(1)); err != nil {
		return fmt.Errorf("guard cgroup %d: %w", cgroup, err)
	}
	return nil
}

// Release ends that. One that is not protected is no error.
func (g *Guard) Release(cgroup uint64) error {
	if err := g.guests.Delete(cgroup); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("release cgroup %d: %w", cgroup, err)
	}
	return nil
}

// Protected returns the cgroups that are protected. Kernels do not use the id of a cgroup again, so those that are gone do no harm.
func (g *Guard) Protected() ([]uint64, error) {
	var all []uint64
	var cgroup uint64
	var one uint8
	entries := g.guests.Iterate()
	for entries.Next(&cgroup, &one) {
		all = append(all, cgroup)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list guarded cgroups: %w", err)
	}
	slices.Sort(all)
	return all, nil
}

// Close gives the handles up. What is protected stays so.
func (g *Guard) Close() error {
	errs := []error{g.guests.Close()}
	for _, l := range g.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Remove ends all protection and takes the pins away. It is for a host from which phonehost is removed, and for tests.
func Remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
	}
	return errors.Join(err, os.Remove(dir))
}

const linkPrefix = "guard-"

// openLinks finds the links that are pinned, and attaches and pins what is missing.
func openLinks(dir, suffix string, load func() ([]program, error)) (links []link.Link, err error) {
	defer func() {
		if err != nil {
			for _, l := range links {
				l.Close()
			}
		}
	}()
	missing := false
	for _, hook := range hooks {
		l, err := link.LoadPinnedLink(pin(dir, hook, suffix), nil)
		if errors.Is(err, fs.ErrNotExist) {
			missing = true
			break
		}
		if err != nil {
			return links, fmt.Errorf("pinned link of %s: %w", hook, err)
		}
		links = append(links, l)
	}
	if !missing {
		return links, nil
	}
	list, err := load()
	if err != nil {
		return links, err
	}
	for _, p := range list {
		defer p.prog.Close()
		l, err := link.AttachLSM(link.LSMOptions{Program: p.prog})
		if err != nil {
			return links, fmt.Errorf("attach to %s: %w", p.hook, err)
		}
		links = append(links, l)
		path := pin(dir, p.hook, suffix)
		// Of an agent that was killed here: two of the same do no harm.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return links, err
		}
		if err := l.Pin(path); err != nil {
			return links, fmt.Errorf("pin the link of %s: %w", p.hook, err)
		}
	}
	return links, nil
}

func pin(dir, hook, suffix string) string {
	return filepath.Join(dir, linkPrefix+strings.ReplaceAll(hook, "_", "-")+"-"+suffix)
}

// unpinOthers ends programs of other versions, now that this one is in force.
func unpinOthers(dir, suffix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), linkPrefix) && !strings.HasSuffix(e.Name(), "-"+suffix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("guard: end another version: %w", err)
			}
		}
	}
	return nil
}
