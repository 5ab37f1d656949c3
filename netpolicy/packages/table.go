package packages

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// MaxBytes is how long a list may be. One of 500 packages has some 60 KB, and one that uses up all app ids 1.5 MB.
	MaxBytes = 2 << 20
	// MaxPackages is how many packages a list may have. There are 10000 app ids, and few packages share one.
	MaxPackages = 20_000
	// MaxName is how many bytes a package's name may have: it is the name of a directory in /data/data.
	MaxName = 255
)

// Package is a line of the list. Its text is the guest's; Name alone is checked.
type Package struct {
	// Name is 1..MaxName letters, digits, '_' and '.'.
	Name string
	// AppID is 0..19999: of the system (KindOf: System), or of an app.
	AppID uint32
	// Debuggable is whether `run-as` may enter it.
	Debuggable bool
	// DataDir is where user 0's data is; it may be "null".
	DataDir string
	// SEInfo is the label by which SELinux domains are chosen.
	SEInfo string
	// GIDs are the groups that its permissions bring.
	GIDs []uint32

	// What follows is not in the lists of older Androids, and is zero then.

	// ProfileableFromShell and Profileable are whether the shell, or the platform, may profile it.
	ProfileableFromShell, Profileable bool
	VersionCode                       int64
	// Installer is the package that installed it, "@system", "@product" or "@null".
	Installer string
}

// Table is a complete list.
type Table struct {
	all    []Package // in the order of their names
	byName map[string]int
	byApp  map[uint32][]int // indexes, ascending
}

// Len returns how many packages there are; at least one.
func (t *Table) Len() int { return len(t.all) }

// All returns the packages in the order of their names. The caller does not change them.
func (t *Table) All() []Package { return t.all }

// ByName returns the package with a name.
func (t *Table) ByName(name string) (Package, bool) {
	i, ok := t.byName[name]
	if !ok {
		return Package{}, false
	}
	return t.all[i], true
}

// ByAppID returns the packages that have an app id, in the order of their names: none for an id that is not in the list, several for one
// that is shared.
func (t *Table) ByAppID(appID uint32) []Package {
	var list []Package
	for _, i := range t.byApp[appID] {
		list = append(list, t.all[i])
	}
	return list
}

// AppIDs returns the app ids of the list, ascending, each once.
func (t *Table) AppIDs() []uint32 { return slices.Sorted(maps.Keys(t.byApp)) }

// Parse reads a list: all of r. It takes what Android's own reader does (system/core/libpackagelistparser), and checks more: the first six
// fields of a line must be right, the four others are read if they are there and left at zero if they are not as expected, and what follows is ignored.
//
// Errors: errdefs.ErrDataLoss for a list that is damaged, which names the line from 1 and says what belongs there: a line is wrong or not
// ended, a name stands twice, or there is no package at all, for Android has some of its own. errdefs.ErrOutOfRange for one beyond MaxBytes
// or MaxPackages. r's own.
func Parse(r io.Reader) (*Table, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("the list has more than %d bytes: %w", MaxBytes, errdefs.ErrOutOfRange)
	}
	return parse(string(text))
}

func parse(text string) (*Table, error) {
	t := &Table{byName: make(map[string]int), byApp: make(map[uint32][]int)}
	lines := make(map[string]int)
	number := 0
	for line := range strings.Lines(text) {
		number++
		if number > MaxPackages {
			return nil, fmt.Errorf("line %d: a list has at most %d packages: %w", number, MaxPackages, errdefs.ErrOutOfRange)
		}
		p, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w: %w", number, err, errdefs.ErrDataLoss)
		}
		if first, found := lines[p.Name]; found {
			return nil, fmt.Errorf("line %d: %s is in line %d already; a package has one line: %w", number, p.Name, first, errdefs.ErrDataLoss)
		}
		lines[p.Name] = number
		t.all = append(t.all, p)
	}
	if number == 0 {
		return nil, fmt.Errorf("no package is in the list, and Android always has some of its own: %w", errdefs.ErrDataLoss)
	}
	slices.SortFunc(t.all, func(a, b Package) int { return cmp.Compare(a.Name, b.Name) })
	for i, p := range t.all {
		t.byName[p.Name] = i
		t.byApp[p.AppID] = append(t.byApp[p.AppID], i)
	}
	return t, nil
}

// fields is how many fields of a line must be there.
const fields = 6

// parseLine reads a line with its end.
func parseLine(line string) (Package, error) {
	rest, ended := strings.CutSuffix(line, "\n")
	if !ended {
		return Package{}, fmt.Errorf("%q has no end: the list is cut off", clip(line))
	}
	words := split(rest)
	if len(words) < fields {
		return Package{}, fmt.Errorf("%q has %d fields; want at least %d: name, uid, debuggable, data directory, seinfo, gids", clip(rest), len(words), fields)
	}
	p := Package{Name: words[0], DataDir: words[3], SEInfo: words[4]}
	if err := checkName(p.Name); err != nil {
		return Package{}, err
	}
	appID, err := strconv.ParseUint(words[1], 10, 32)
	if err != nil || appID > LastApp {
		return Package{}, fmt.Errorf("%s has the uid %q; want one of user 0, 0..%d", p.Name, clip(words[1]), LastApp)
	}
	p.AppID = uint32(appID)
	switch words[2] {
	case "0", "1":
		p.Debuggable = words[2] == "1"
	default:
		return Package{}, fmt.Errorf("%s has %q for debuggable; want 0 or 1", p.Name, clip(words[2]))
	}
	if p.GIDs, err = parseGIDs(words[5]); err != nil {
		return Package{}, fmt.Errorf("%s has the gids %q; want numbers with commas between them, or none", p.Name, clip(words[5]))
	}
	p.parseNewer(words[fields:])
	return p, nil
}

// split cuts a line at what C takes for blanks, which are not all of Unicode's.
func split(line string) []string {
	words := make([]string, 0, 10)
	from := -1 // where the word began that goes on
	for i, c := range []byte(line) {
		switch blank := c == ' ' || c >= '\t' && c <= '\r'; {
		case blank && from >= 0:
			words, from = append(words, line[from:i]), -1
		case !blank && from < 0:
			from = i
		}
	}
	if from >= 0 {
		words = append(words, line[from:])
	}
	return words
}

// checkName checks the name of a package by what Android's installer lets into one: its characters (FrameworkParsingPackageUtils.validateName), and
// that a directory can have it.
func checkName(name string) error {
	if len(name) > MaxName {
		return fmt.Errorf("the name %q has %d bytes; want at most %d", clip(name), len(name), MaxName)
	}
	if name == "." || name == ".." {
		return fmt.Errorf("the name %q is a directory's; want that of a package", name)
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '.' {
			return fmt.Errorf("the name %q has a %q; names of packages are letters, digits, '_' and '.'", clip(name), c)
		}
	}
	return nil
}

func parseGIDs(list string) ([]uint32, error) {
	if list == "none" {
		return nil, nil
	}
	all := make([]uint32, 0, 1+strings.Count(list, ","))
	for word := range strings.SplitSeq(list, ",") {
		gid, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			return nil, err
		}
		all = append(all, uint32(gid))
	}
	return all, nil
}

// parseNewer reads the fields from the seventh on, up to the first that is not as expected.
func (p *Package) parseNewer(words []string) {
	flag := func(to *bool) func(string) bool {
		return func(word string) bool { *to = word == "1"; return word == "0" || word == "1" }
	}
	read := []func(string) bool{
		flag(&p.ProfileableFromShell),
		func(word string) (ok bool) {
			n, err := strconv.ParseInt(word, 10, 64)
			if err == nil {
				p.VersionCode = n
			}
			return err == nil
		},
		flag(&p.Profileable),
		func(word string) bool { p.Installer = word; return true },
	}
	for i, word := range words[:min(len(words), len(read))] {
		if !read[i](word) {
			return
		}
	}
}

// clip is a word as an error shows it: not all of it if it is very long.
func clip(word string) string {
	const most = 100
	if len(word) <= most {
		return word
	}
	return word[:most] + "..."
}
