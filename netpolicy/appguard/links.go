package appguard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/phonehost/phonehost/netpolicy/pinned"
)

// attach attaches a program that is loaded.
type attach func(*ebpf.Program) (link.Link, error)

func onHook(p *ebpf.Program) (link.Link, error) { return link.AttachLSM(link.LSMOptions{Program: p}) }

func onFunction(p *ebpf.Program) (link.Link, error) {
	return link.AttachTracing(link.TracingOptions{Program: p})
}

func onProbe(function string) attach {
	return func(p *ebpf.Program) (link.Link, error) { return link.Kprobe(function, p, nil) }
}

// A program of a mechanism, and how it is attached.
type program struct {
	name   string
	attach attach
}

var kill = []program{
	{bpfProgKillSetuid, onProbe("security_task_fix_setuid")},
	{bpfProgKillExec, onProbe("security_bprm_creds_from_file")},
}

var killNames = []string{bpfProgKillSetuid, bpfProgKillExec}

// mechanismPrograms are the programs of each mechanism, in the order in which they are attached.
var mechanismPrograms = map[Mechanism][]program{
	MechanismLSM:    {{bpfProgLsmSetuid, onHook}, {bpfProgLsmExec, onHook}, {bpfProgLsmRename, onHook}, {bpfProgLsmMkdir, onHook}},
	MechanismModify: append([]program{{bpfProgModifySetuid, onFunction}, {bpfProgModifyExec, onFunction}, {bpfProgModifyRename, onFunction}, {bpfProgModifyMkdir, onFunction}}, kill...),
	MechanismKill:   kill,
}

// programVersion names the programs that this build brings.
func programVersion() string {
	sum := sha256.Sum256(_BpfBytes)
	return hex.EncodeToString(sum[:6])
}

// load has the kernel verify programs, which work on the pinned maps.
func (g *Guard) load(names ...string) (map[string]*ebpf.Program, error) {
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("the programs' object: %w", err)
	}
	return loadWith(spec, g.pinned, names...)
}

// loadWith loads some programs of an object, which work on given maps.
func loadWith(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, names ...string) (map[string]*ebpf.Program, error) {
	wanted := map[string]*ebpf.ProgramSpec{}
	for _, name := range names {
		wanted[name] = spec.Programs[name]
	}
	spec.Programs = wanted
	replacements := map[string]*ebpf.Map{}
	for name, s := range spec.Maps {
		m := maps[name]
		s.MaxEntries, replacements[name] = m.MaxEntries(), m
		if s.InnerMap != nil {
			s.InnerMap = pinned.Plain(s)
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	defer collection.Close()
	all := map[string]*ebpf.Program{}
	for _, name := range names {
		all[name] = collection.DetachProgram(name)
	}
	return all, nil
}

// attachMechanism finds the links of a mechanism pinned, or attaches its programs and pins what is missing. After an error nothing of it is
// attached that was not before.
func (g *Guard) attachMechanism(m Mechanism) (_ map[string]link.Link, err error) {
	dir := g.pins.links(g.version)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	links, missing := map[string]link.Link{}, []program(nil)
	defer func() {
		if err != nil {
			closeLinks(links)
		}
	}()
	for _, p := range mechanismPrograms[m] {
		l, err := link.LoadPinnedLink(filepath.Join(dir, p.name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, p)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("pinned link of %s: %w", p.name, err)
		}
		links[p.name] = l
	}
	return links, g.attachMissing(dir, missing, links)
}

// attachMissing attaches programs and adds their links, pinned.
func (g *Guard) attachMissing(dir string, missing []program, links map[string]link.Link) error {
	if len(missing) == 0 {
		return nil
	}
	var names []string
	for _, p := range missing {
		names = append(names, p.name)
	}
	programs, err := g.load(names...)
	if err != nil {
		return err
	}
	defer closePrograms(programs)
	var pins []string
	for _, p := range missing {
		l, err := p.attach(programs[p.name])
		if err == nil {
			links[p.name] = l
			path := filepath.Join(dir, p.name)
			pins = append(pins, path)
			err = l.Pin(path)
		}
		if err != nil {
			for _, path := range pins {
				err = errors.Join(err, pinned.Unpin(path))
			}
			return fmt.Errorf("attach %s: %w", p.name, err)
		}
	}
	return nil
}

// detach ends the links of a mechanism.
func (g *Guard) detach(links map[string]link.Link) error {
	var err error
	for name := range links {
		err = errors.Join(err, pinned.Unpin(filepath.Join(g.pins.links(g.version), name)))
	}
	closeLinks(links)
	return err
}

// former returns the best mechanism of which links are pinned, of any version; "" for none.
func (g *Guard) former() (Mechanism, error) {
	versions, err := os.ReadDir(g.pins.links(""))
	if err != nil {
		return "", err
	}
	for _, m := range g.config.Mechanisms {
		for _, v := range versions {
			for _, p := range mechanismPrograms[m] {
				if m == MechanismModify && slices.Contains(killNames, p.name) { // both mechanisms have it
					continue
				}
				_, err := os.Stat(filepath.Join(g.pins.links(v.Name()), p.name))
				if err == nil {
					return m, nil
				}
				if !errors.Is(err, fs.ErrNotExist) {
					return "", err
				}
			}
		}
	}
	return "", nil
}

// removeOthers ends programs of other versions, and of other mechanisms of this one, now that these hold, and makes sure that they do.
func (g *Guard) removeOthers(ctx context.Context) error {
	versions, err := os.ReadDir(g.pins.links(""))
	if err != nil {
		return err
	}
	if err := g.unpinOthers(); err != nil || len(versions) < 2 {
		return err
	}
	shown, err := g.show(ctx)
	if err != nil {
		return err
	}
	if now := g.Status(); !shown.keeps(promised(now.Mechanism)) {
		g.log.Warn("the programs of another version were obeyed, and these are not: all is attached anew", "missing", shown.missing(promised(now.Mechanism)))
		return g.again(ctx)
	}
	return nil
}

func (g *Guard) unpinOthers() error {
	for _, dir := range []string{g.pins.links(""), g.pins.programs("")} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Name() != g.version {
				if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	entries, err := os.ReadDir(g.pins.links(g.version))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // no mechanism was tried
		return err
	}
	for _, e := range entries {
		if g.links[e.Name()] == nil {
			if err := pinned.Unpin(filepath.Join(g.pins.links(g.version), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func closeLinks(all map[string]link.Link) {
	for _, l := range all {
		l.Close()
	}
}

func closePrograms(all map[string]*ebpf.Program) {
	for _, p := range all {
		p.Close()
	}
}
