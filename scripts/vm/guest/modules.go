package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleName returns the kernel's name of a module or of a module's file: of "a/b/snd-aloop.ko" it is "snd_aloop".
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// loadInitial loads the modules of a directory that the file order names, one a line, in its order.
func loadInitial(order, dir string, options map[string][]string) error {
	data, err := os.ReadFile(order)
	if err != nil {
		return fmt.Errorf("read the order of the initrd's modules: %w", err)
	}
	for _, name := range strings.Fields(string(data)) {
		if err := loadFile(filepath.Join(dir, name+".ko"), options[moduleName(name)]); err != nil {
			return err
		}
	}
	return nil
}

// loadFile loads one module. One that is loaded already is no error.
func loadFile(name string, options []string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("load module: %w", err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), strings.Join(options, " "), 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", moduleName(name), err)
	}
	return nil
}

// modules loads the modules of one directory of the kernel's, such as /usr/lib/modules/6.12.117, by depmod's indexes.
type modules struct {
	dir     string
	options map[string][]string
}

// Modprobe loads what the kernel or a person asks for: args are modprobe's, of which only names, aliases and parameters count.
// The name of a module that is built in is no error.
func Modprobe(args []string) error {
	line, err := readCommandLine()
	if err != nil {
		return err
	}
	m := modules{dir: "/usr/lib/modules/" + line.release, options: line.options}
	names, options, err := parseModprobe(args)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := m.load(name, options); err != nil {
			return err
		}
	}
	return nil
}

// parseModprobe takes modprobe's arguments apart: one name and its parameters, or with -a several names.
func parseModprobe(args []string) (names, options []string, err error) {
	all := false
	for _, arg := range args {
		switch {
		case arg == "-a" || arg == "--all":
			all = true
		case arg == "-r" || arg == "--remove":
			return nil, nil, errors.New("modprobe: no module is removed here, want rmmod")
		case strings.HasPrefix(arg, "-"):
		case strings.Contains(arg, "="):
			options = append(options, arg)
		case len(names) == 0 || all:
			names = append(names, arg)
		default:
			options = append(options, arg)
		}
	}
	if len(names) == 0 {
		return nil, nil, errors.New("modprobe: no module is named, want modprobe [-q] NAME [OPTION=VALUE] or modprobe -a and names")
	}
	return names, options, nil
}

// load loads the module, or the modules of an alias, with what they depend on.
func (m modules) load(name string, options []string) error {
	loads, err := m.plan(name, options)
	if err != nil {
		return err
	}
	for _, l := range loads {
		if err := loadFile(filepath.Join(m.dir, l.file), l.options); err != nil {
			return err
		}
	}
	return nil
}

// loading is one module to load, by its path below the directory.
type loading struct {
	file    string
	options []string
}

// plan returns what load loads, in order: nothing for what is built in.
func (m modules) plan(name string, options []string) ([]loading, error) {
	name = strings.ReplaceAll(name, "-", "_")
	files, err := m.files(name)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		if builtin, err := m.builtin(name); builtin || err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("load module %s: there is none in %s: %w", name, m.dir, fs.ErrNotExist)
	}
	var loads []loading
	for _, chain := range files {
		// The chain is the module and then what it needs, each before what itself needs.
		for i, file := range slices.Backward(chain) {
			words := m.options[moduleName(file)]
			if i == 0 {
				words = append(words[:len(words):len(words)], options...)
			}
			loads = append(loads, loading{file, words})
		}
	}
	return loads, nil
}

// files returns, for each module that name means, its file and those of its dependencies.
func (m modules) files(name string) ([][]string, error) {
	wanted := map[string]bool{name: true}
	err := scan(filepath.Join(m.dir, "modules.alias"), func(fields []string) {
		if len(fields) != 3 || fields[0] != "alias" {
			return
		}
		if ok, err := path.Match(strings.ReplaceAll(fields[1], "-", "_"), name); ok && err == nil {
			wanted[moduleName(fields[2])] = true
		}
	})
	if err != nil {
		return nil, err
	}
	var files [][]string
	err = scan(filepath.Join(m.dir, "modules.dep"), func(fields []string) {
		if len(fields) == 0 {
			return
		}
		fields[0] = strings.TrimSuffix(fields[0], ":")
		if wanted[moduleName(fields[0])] {
			files = append(files, fields)
		}
	})
	return files, err
}

// builtin reports whether the kernel has the module built in.
func (m modules) builtin(name string) (found bool, err error) {
	err = scan(filepath.Join(m.dir, "modules.builtin"), func(fields []string) {
		found = found || len(fields) == 1 && moduleName(fields[0]) == name
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return found, err
}

// scan calls each with the fields of every line of a file.
func scan(name string, each func(fields []string)) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("read index of modules: %w", err)
	}
	defer f.Close()
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadString('\n')
		each(strings.Fields(line))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read index of modules: %w", err)
		}
	}
}
