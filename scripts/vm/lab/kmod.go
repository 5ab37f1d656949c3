package lab

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/host"
)

// moduleTree is the modules that a kernel has. Modules are known by their names with "_" for every "-".
type moduleTree struct {
	dir     string            // lib/modules/RELEASE of the unpacked packages
	files   map[string]string // path of a module, relative to dir
	extra   map[string]string // path of a module built out of the tree, which replaces one of the same name
	builtin map[string]bool

	loaded map[string]*module // what has been read, unpacked
}

// module is the text of a module and what it says of itself.
type module struct {
	text []byte
	// depends are needed; soft are loaded first if they exist.
	depends, soft []string
}

// moduleName is the name of a file "snd-aloop.ko.xz": "snd_aloop"; "" if it is no module.
func moduleName(file string) string {
	base := strings.TrimSuffix(strings.TrimSuffix(path.Base(file), ".xz"), ".zst")
	name, ok := strings.CutSuffix(base, ".ko")
	if !ok {
		return ""
	}
	return strings.ReplaceAll(name, "-", "_")
}

// openModules lists the modules below dir (lib/modules/RELEASE) and those of extra, a directory of .ko files, or "".
func openModules(dir, extra string) (*moduleTree, error) {
	t := &moduleTree{dir: dir, builtin: map[string]bool{}, loaded: map[string]*module{}}
	var err error
	if t.files, err = findModules(dir); err != nil {
		return nil, err
	}
	if extra != "" {
		found, err := findModules(extra)
		if err != nil {
			return nil, err
		}
		t.extra = make(map[string]string, len(found))
		for name, file := range found {
			t.extra[name] = filepath.Join(extra, file)
		}
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("read which modules are built in: %w", err)
	}
	for line := range strings.Lines(string(builtin)) {
		t.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	if len(t.files) == 0 {
		return nil, fmt.Errorf("there are no modules in %s: %w", filepath.Base(dir), errdefs.ErrNotFound)
	}
	return t, nil
}

func findModules(dir string) (map[string]string, error) {
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if name := moduleName(p); name != "" {
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			found[name] = rel
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for modules: %w", err)
	}
	return found, nil
}

// want are the names of the modules that patterns name, in their order. A pattern that names none, nor one that is built in, is an
// error if it is not optional.
func (t *moduleTree) want(patterns []string, optional bool) ([]string, error) {
	var names []string
	for _, pattern := range patterns {
		plain := strings.ReplaceAll(pattern, "-", "_")
		matches := func(name string) bool { ok, err := path.Match(plain, name); return err == nil && ok }
		var some []string
		for _, all := range []map[string]string{t.files, t.extra} {
			for name := range all {
				if matches(name) {
					some = append(some, name)
				}
			}
		}
		slices.Sort(some)
		names = append(names, slices.Compact(some)...)
		if len(some) > 0 || optional {
			continue
		}
		builtin := false
		for name := range t.builtin {
			builtin = builtin || matches(name)
		}
		if !builtin {
			return nil, fmt.Errorf("the kernel %s has no module %q: if it needs none, name it under optional in %s: %w",
				filepath.Base(t.dir), pattern, labFile, errdefs.ErrNotFound)
		}
	}
	return names, nil
}

// order is names and what they depend on, in an order in which they can be loaded.
func (t *moduleTree) order(ctx context.Context, names []string) ([]string, error) {
	var order []string
	state := map[string]bool{} // false while a module's dependencies are followed
	var follow func(name string) error
	follow = func(name string) error {
		if _, seen := state[name]; seen || (t.builtin[name] && t.extra[name] == "") {
			return nil
		}
		state[name] = false
		m, err := t.module(ctx, name)
		if err != nil {
			return err
		}
		for _, need := range m.soft {
			if t.files[need] != "" || t.extra[need] != "" {
				if err := follow(need); err != nil {
					return err
				}
			}
		}
		for _, need := range m.depends {
			if err := follow(need); err != nil {
				return fmt.Errorf("module %s: %w", name, err)
			}
		}
		order, state[name] = append(order, name), true
		return nil
	}
	for _, name := range names {
		if err := follow(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// path of a module, absolute, and where it belongs below lib/modules/RELEASE, unpacked.
func (t *moduleTree) path(name string) (from, to string) {
	if file, ok := t.extra[name]; ok {
		return file, filepath.Join("updates", filepath.Base(file))
	}
	file := t.files[name]
	return filepath.Join(t.dir, file), strings.TrimSuffix(strings.TrimSuffix(file, ".xz"), ".zst")
}

// module reads a module, unpacked.
func (t *moduleTree) module(ctx context.Context, name string) (*module, error) {
	if m := t.loaded[name]; m != nil {
		return m, nil
	}
	if t.files[name] == "" && t.extra[name] == "" {
		return nil, fmt.Errorf("module %s is needed, and kernel %s does not have it: %w", name, filepath.Base(t.dir), errdefs.ErrNotFound)
	}
	file, _ := t.path(name)
	var text []byte
	var err error
	switch filepath.Ext(file) {
	case ".xz":
		text, err = host.Output(ctx, "xz", "-dc", file)
	case ".zst":
		text, err = host.Output(ctx, "zstd", "-dcq", file)
	default:
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	m, err := parseModule(text)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	t.loaded[name] = m
	return m, nil
}

// parseModule reads what a module says of itself in its section .modinfo.
func parseModule(text []byte) (*module, error) {
	f, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrDataLoss, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil || section.Size > uint64(len(text)) {
		return nil, fmt.Errorf("it has no section .modinfo: %w", errdefs.ErrDataLoss)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrDataLoss, err)
	}
	m := &module{text: text}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(entry), "=")
		switch key {
		case "depends":
			m.depends = append(m.depends, names(value, ",")...)
		case "softdep":
			if pre, ok := strings.CutPrefix(value, "pre:"); ok {
				pre, _, _ = strings.Cut(pre, "post:")
				m.soft = append(m.soft, names(pre, " ")...)
			}
		}
	}
	return m, nil
}

func names(list, sep string) []string {
	var out []string
	for name := range strings.SplitSeq(list, sep) {
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, strings.ReplaceAll(name, "-", "_"))
		}
	}
	return out
}

// image makes the file system of the modules at out: those in order, unpacked, with depmod's indexes, at its root.
func (t *moduleTree) image(ctx context.Context, order []string, out string) error {
	release := filepath.Base(t.dir)
	base, err := os.MkdirTemp(filepath.Dir(out), "modules.")
	if err != nil {
		return fmt.Errorf("gather modules: %w", err)
	}
	defer os.RemoveAll(base)
	tree := filepath.Join(base, "lib", "modules", release)
	var size int64
	for _, name := range order {
		m, err := t.module(ctx, name)
		if err != nil {
			return err
		}
		_, to := t.path(name)
		if err := writeFile(filepath.Join(tree, to), m.text); err != nil {
			return fmt.Errorf("gather modules: %w", err)
		}
		size += int64(len(m.text)+8191) &^ 4095
	}
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		text, err := os.ReadFile(filepath.Join(t.dir, name))
		if errors.Is(err, fs.ErrNotExist) && name != "modules.builtin" {
			continue
		}
		if err == nil {
			err = writeFile(filepath.Join(tree, name), text)
		}
		if err != nil {
			return fmt.Errorf("gather modules: %w", err)
		}
	}
	if err := host.Run(ctx, host.Command{Name: "depmod", Args: []string{"-b", base, release}}); err != nil {
		return fmt.Errorf("index modules: %w", err)
	}
	// Room for the indexes; no journal, since nobody writes.
	blocks := (size*11/10 + 8<<20) / 4096
	err = host.Run(ctx, host.Command{Name: "mke2fs", Args: []string{"-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal,^resize_inode",
		"-m", "0", "-L", "modules", "-E", "root_owner=0:0", "-d", tree, out, fmt.Sprint(blocks)}})
	if err != nil {
		return fmt.Errorf("make the image of modules: %w", err)
	}
	return nil
}

func writeFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
