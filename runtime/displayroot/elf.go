package displayroot

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// object is one ELF file that the root needs.
type object struct {
	path    string // on the host, where the loader would find it
	machine elf.Machine
	class   elf.Class
	interp  string   // the program's loader; empty for libraries
	needed  []string // sonames
	runpath []string
}

// open reads what the loader would of an ELF file.
func open(path string) (*object, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	o := &object{path: path, machine: f.Machine, class: f.Class}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			text := make([]byte, p.Filesz)
			if _, err := p.ReadAt(text, 0); err != nil {
				return nil, fmt.Errorf("read the interpreter of %s: %w", path, err)
			}
			o.interp = strings.TrimRight(string(text), "\x00")
		}
	}
	if o.needed, err = f.ImportedLibraries(); err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, fmt.Errorf("read the libraries of %s: %w", path, err)
	}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		lists, err := f.DynString(tag)
		if err != nil {
			continue // a static file has no dynamic section
		}
		for _, list := range lists {
			for _, dir := range strings.Split(list, ":") {
				o.runpath = append(o.runpath, strings.ReplaceAll(dir, "$ORIGIN", filepath.Dir(path)))
			}
		}
	}
	return o, nil
}

// closure returns the files that the program and the sonames need, by their paths on the host.
func closure(program string, sonames, dirs []string) ([]string, error) {
	main, err := open(program)
	if err != nil {
		return nil, err
	}
	files := []string{program}
	if main.interp != "" {
		files = append(files, main.interp)
	}
	found := map[string]bool{}
	queue := []*object{main}
	main.needed = slices.Concat(main.needed, sonames)
	for len(queue) > 0 {
		o := queue[0]
		queue = queue[1:]
		for _, name := range o.needed {
			if found[name] {
				continue
			}
			found[name] = true
			library, err := find(name, o, main, dirs)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(files, library.path) {
				files = append(files, library.path)
			}
			queue = append(queue, library)
		}
	}
	slices.Sort(files)
	return files, nil
}

// find looks a soname up as the loader would.
func find(soname string, by, main *object, dirs []string) (*object, error) {
	for _, dir := range slices.Concat(by.runpath, main.runpath, dirs) {
		path := filepath.Join(dir, soname)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		o, err := open(path)
		if err != nil {
			return nil, err
		}
		if o.machine == main.machine && o.class == main.class {
			return o, nil
		}
	}
	return nil, fmt.Errorf("%s, which %s needs, is in none of %s: install the package that has it: %w",
		soname, by.path, strings.Join(dirs, ", "), errdefs.ErrNotFound)
}

// loaderDirs returns the directories that the host's loader searches: those of ld.so.conf, then the architecture's own.
func loaderDirs(root string) []string {
	dirs := confDirs(root, "/etc/ld.so.conf", 0)
	for _, dir := range []string{"/lib", "/usr/lib", "/lib64", "/usr/lib64"} {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// confDirs reads one file of ld.so.conf's form: a directory per line, and "include PATTERN".
func confDirs(root, file string, depth int) []string {
	f, err := os.Open(filepath.Join(root, file))
	if err != nil || depth > 4 {
		return nil // musl and minimal systems have none
	}
	defer f.Close()
	var dirs []string
	for scan := bufio.NewScanner(f); scan.Scan(); {
		line, _, _ := strings.Cut(scan.Text(), "#")
		line = strings.TrimSpace(line)
		if pattern, ok := strings.CutPrefix(line, "include "); ok {
			pattern = strings.TrimSpace(pattern)
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(filepath.Dir(file), pattern)
			}
			more, _ := filepath.Glob(filepath.Join(root, pattern))
			for _, m := range more {
				rel, err := filepath.Rel(root, m)
				if err == nil {
					dirs = append(dirs, confDirs(root, "/"+rel, depth+1)...)
				}
			}
		} else if filepath.IsAbs(line) && !slices.Contains(dirs, line) {
			dirs = append(dirs, line)
		}
	}
	return dirs
}
