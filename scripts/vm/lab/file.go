package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// File is scripts/vm/lab.toml: what the lab is made of, without versions.
type File struct {
	// Release is the Debian release of the roots, Suites where their packages come from.
	Release string   `toml:"release"`
	Suites  []string `toml:"suites"`
	// Architectures are those that `vm build` builds when none is named.
	Architectures []string              `toml:"architectures"`
	Initrd        InitrdFile            `toml:"initrd"`
	Kernel        map[string]KernelFile `toml:"kernel"` // by series
	Modules       ModulesFile           `toml:"modules"`
	Root          PackagesFile          `toml:"root"`
	Sysroot       PackagesFile          `toml:"sysroot"`
	// Addition is what machines have beside the root's packages and the kernel's modules that ask for it, by name.
	Addition map[string]AdditionFile `toml:"addition"`
}

// AdditionFile names packages, modules, and units of systemd in the packages that do not run, as scripts/vm/root/masked has them.
type AdditionFile struct {
	Packages []string `toml:"packages"`
	Modules  []string `toml:"modules"`
	Masked   []string `toml:"masked"`
}

// InitrdFile is what an initrd holds besides vm-guest.
type InitrdFile struct {
	Packages []string `toml:"packages"`
	Modules  []string `toml:"modules"`
	Optional []string `toml:"optional"`
}

// KernelFile says where a kernel series comes from: package names or patterns.
type KernelFile struct {
	Suites []string `toml:"suites"`
	Image  []string `toml:"image"`
	Build  []string `toml:"build"`
	// Tools are what compiles Build: the compilers of the release that the kernel is from.
	Tools ToolsFile `toml:"tools"`
}

// ToolsFile names packages of this machine's architecture and where they come from.
type ToolsFile struct {
	Suites   []string `toml:"suites"`
	Packages []string `toml:"packages"`
}

// ModulesFile names modules, or patterns of them.
type ModulesFile struct {
	Wanted   []string `toml:"wanted"`
	Optional []string `toml:"optional"`
}

// PackagesFile names packages.
type PackagesFile struct {
	Packages []string `toml:"packages"`
}

// labFile is the path of lab.toml in the repository.
const labFile = "scripts/vm/lab.toml"

// readFile reads lab.toml of the checkout repo. An error names the line.
func readFile(repo string) (*File, error) {
	text, err := os.ReadFile(filepath.Join(repo, labFile))
	if err != nil {
		return nil, fmt.Errorf("read what the lab is made of: %w", err)
	}
	f, err := parseFile(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", labFile, err)
	}
	return f, nil
}

func parseFile(text []byte) (*File, error) {
	var f File
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		var strict *toml.StrictMissingError
		var decode *toml.DecodeError
		switch {
		case errors.As(err, &strict):
			return nil, fmt.Errorf("it has a key that means nothing:\n%s: %w", strict.String(), errdefs.ErrInvalidArgument)
		case errors.As(err, &decode):
			return nil, fmt.Errorf("\n%s: %w", decode.String(), errdefs.ErrInvalidArgument)
		}
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if f.Release == "" || len(f.Suites) == 0 || len(f.Architectures) == 0 || len(f.Kernel) == 0 {
		return nil, fmt.Errorf("it lacks release, suites, architectures or a kernel: %w", errdefs.ErrInvalidArgument)
	}
	for series, k := range f.Kernel {
		if !validSeries(series) || len(k.Suites) == 0 || len(k.Image) == 0 {
			return nil, fmt.Errorf("kernel %q: want a series such as \"6.12\" with suites and image: %w", series, errdefs.ErrInvalidArgument)
		}
	}
	for name, a := range f.Addition {
		if !validAddition.MatchString(name) || len(a.Packages) == 0 || len(a.Modules) == 0 {
			return nil, fmt.Errorf("addition %q: want a name of letters with packages and modules: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return &f, nil
}

var validAddition = regexp.MustCompile("^[a-z]+$")

func validSeries(s string) bool {
	major, minor, ok := strings.Cut(s, ".")
	_, err1 := strconv.ParseUint(major, 10, 16)
	_, err2 := strconv.ParseUint(minor, 10, 16)
	return ok && err1 == nil && err2 == nil
}

// seriesLess orders "6.1" before "6.12".
func compareSeries(a, b string) int {
	number := func(s string) uint64 {
		major, minor, _ := strings.Cut(s, ".")
		x, _ := strconv.ParseUint(major, 10, 16)
		y, _ := strconv.ParseUint(minor, 10, 16)
		return x<<16 | y
	}
	x, y := number(a), number(b)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}
