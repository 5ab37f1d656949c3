package datapath

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
)

// programNames are the programs of the object.
var programNames = []string{bpfProgFromPhone, bpfProgToPhone, bpfProgJudge}

// programVersion names the programs that this build brings.
func programVersion() string {
	sum := sha256.Sum256(_BpfBytes)
	return hex.EncodeToString(sum[:6])
}

// programs are the programs of one version, and their numbers in the kernel.
type programs struct {
	byName map[string]*ebpf.Program
	ids    map[string]uint32
}

// openPrograms finds the programs of this version pinned, or loads and pins them.
func (d *Datapath) openPrograms(spec *ebpf.CollectionSpec) error {
	dir := d.pins.programs(d.version)
	all, err := d.pinnedPrograms(dir)
	if err != nil {
		return err
	}
	if all == nil {
		if all, err = d.loadPrograms(spec, dir); err != nil {
			return err
		}
	}
	d.programs, err = numbered(all)
	return err
}

// numbered learns the programs' numbers.
func numbered(all map[string]*ebpf.Program) (programs, error) {
	p := programs{byName: all, ids: map[string]uint32{}}
	for name, prog := range all {
		info, err := prog.Info()
		if err != nil {
			return p, fmt.Errorf("program %s: %w", name, err)
		}
		id, _ := info.ID()
		p.ids[name] = uint32(id)
	}
	return p, nil
}

// pinnedPrograms opens the pins, nil if one is missing or works on other maps than those that are pinned.
func (d *Datapath) pinnedPrograms(dir string) (_ map[string]*ebpf.Program, err error) {
	all := map[string]*ebpf.Program{}
	usable := false
	defer func() {
		if !usable {
			closePrograms(all)
		}
	}()
	for _, name := range programNames {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("pinned program %s: %w", name, err)
		}
		all[name] = p
		ours, err := d.usesOurMaps(p)
		if !ours || err != nil {
			return nil, err
		}
	}
	usable = true
	return all, nil
}

// usesOurMaps tells whether a program works on the pinned maps, and no others.
func (d *Datapath) usesOurMaps(p *ebpf.Program) (bool, error) {
	info, err := p.Info()
	if err != nil {
		return false, err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		if !slices.Contains(d.mapIDs, id) {
			return false, nil
		}
	}
	return true, nil
}

// loadPrograms has the kernel verify the programs, and pins them.
func (d *Datapath) loadPrograms(spec *ebpf.CollectionSpec, dir string) (_ map[string]*ebpf.Program, err error) {
	replacements := map[string]*ebpf.Map{}
	for name, s := range spec.Maps {
		if m := d.pinned[name]; m != nil {
			s.MaxEntries, replacements[name] = m.MaxEntries(), m
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	if err != nil {
		return nil, refused(err)
	}
	defer collection.Close()
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	all := map[string]*ebpf.Program{}
	for _, name := range programNames {
		all[name] = collection.DetachProgram(name)
		if err := all[name].Pin(filepath.Join(dir, name)); err != nil {
			closePrograms(all)
			return nil, fmt.Errorf("pin program %s: %w", name, err)
		}
	}
	return all, nil
}

// refused says what it means that the kernel does not take the programs.
func refused(err error) error {
	var verifier *ebpf.VerifierError
	if errors.Is(err, ebpf.ErrNotSupported) || errors.As(err, &verifier) && !errors.Is(err, os.ErrPermission) {
		return &UnsupportedError{Feature: "BPF that takes the programs of the phones' networks", Since: "Linux 6.1", Err: err}
	}
	return fmt.Errorf("load the programs: %w", err)
}

// removeOtherPrograms unpins other versions. Links keep theirs until Attach replaces them.
func (d *Datapath) removeOtherPrograms() error {
	entries, err := os.ReadDir(d.pins.programs(""))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != d.version {
			if err := os.RemoveAll(d.pins.programs(e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func closePrograms(all map[string]*ebpf.Program) {
	for _, p := range all {
		p.Close()
	}
}
