package appguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// cgroupPrograms are attached to the root of the phones' cgroups.
var cgroupPrograms = map[string]ebpf.AttachType{
	bpfProgConnect4: ebpf.AttachCGroupInet4Connect, bpfProgConnect6: ebpf.AttachCGroupInet6Connect, bpfProgSendmsg4: ebpf.AttachCGroupUDP4Sendmsg,
	bpfProgSendmsg6: ebpf.AttachCGroupUDP6Sendmsg, bpfProgEgress: ebpf.AttachCGroupInetEgress, bpfProgIngress: ebpf.AttachCGroupInetIngress,
}

// canaryCgroup is where the canary runs: where a phone's guest would.
func canaryCgroup(root string) string { return filepath.Join(root, ".canary", "guest") }

// openCgroups makes the root of the phones' cgroups and the canary's.
func (g *Guard) openCgroups() error {
	dir := canaryCgroup(g.config.CgroupRoot)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s is no cgroup v2: %w", g.config.CgroupRoot, errdefs.ErrFailedPrecondition)
	}
	f, err := os.Open(dir)
	g.canary = f
	return err
}

// cgroupID is the id of a cgroup by which programs know it.
func cgroupID(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return st.Ino, nil
}

// attachCgroups puts the cgroup programs of this version in force: between two packets where others were. Others' programs there run, too.
func (g *Guard) attachCgroups() error {
	programs, err := g.openCgroupPrograms()
	if err != nil {
		return err
	}
	defer closePrograms(programs)
	root, err := os.Open(g.config.CgroupRoot)
	if err != nil {
		return err
	}
	defer root.Close()
	id, err := cgroupID(root)
	if err != nil {
		return err
	}
	links := map[string]link.Link{}
	for name, p := range programs {
		l, err := g.attachCgroup(name, p, id)
		if err != nil {
			closeLinks(links)
			return fmt.Errorf("attach %s to %s: %w", name, g.config.CgroupRoot, err)
		}
		links[name] = l
	}
	closeLinks(g.cgroups)
	g.cgroups = links
	return nil
}

// attachCgroup updates the link of a program, or makes one: also when the cgroup is another than that of the link, which has gone.
func (g *Guard) attachCgroup(name string, p *ebpf.Program, cgroup uint64) (link.Link, error) {
	l, err := link.LoadPinnedLink(g.pins.cgroup(name), nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		there, err := onCgroup(l, cgroup)
		if there && err == nil {
			return l, update(l, p)
		}
		l.Close()
		if err != nil {
			return nil, err
		}
		if err := pinned.Unpin(g.pins.cgroup(name)); err != nil {
			return nil, err
		}
	}
	l, err = link.AttachCgroup(link.CgroupOptions{Path: g.config.CgroupRoot, Attach: cgroupPrograms[name], Program: p})
	if err != nil {
		return nil, err
	}
	if err := l.Pin(g.pins.cgroup(name)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// onCgroup tells whether a link is on a cgroup.
func onCgroup(l link.Link, cgroup uint64) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	c := info.Cgroup()
	return c != nil && c.CgroupId == cgroup, nil
}

// update has a link run a program, if it does not already.
func update(l link.Link, p *ebpf.Program) error {
	info, err := l.Info()
	if err != nil {
		return err
	}
	want, err := p.Info()
	if err != nil {
		return err
	}
	if id, _ := want.ID(); id == info.Program {
		return nil
	}
	return l.Update(p)
}

// openCgroupPrograms finds the cgroup programs of this version pinned, or loads and pins them.
func (g *Guard) openCgroupPrograms() (map[string]*ebpf.Program, error) {
	dir := g.pins.programs(g.version)
	all := map[string]*ebpf.Program{}
	for name := range cgroupPrograms {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			closePrograms(all)
			return g.loadCgroupPrograms(dir)
		}
		if err != nil {
			closePrograms(all)
			return nil, fmt.Errorf("pinned program %s: %w", name, err)
		}
		all[name] = p
	}
	return all, nil
}

func (g *Guard) loadCgroupPrograms(dir string) (map[string]*ebpf.Program, error) {
	var names []string
	for name := range cgroupPrograms {
		names = append(names, name)
	}
	all, err := g.load(names...)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir); err != nil {
		closePrograms(all)
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		closePrograms(all)
		return nil, err
	}
	for name, p := range all {
		if err := p.Pin(filepath.Join(dir, name)); err != nil {
			closePrograms(all)
			return nil, fmt.Errorf("pin program %s: %w", name, err)
		}
	}
	return all, nil
}
