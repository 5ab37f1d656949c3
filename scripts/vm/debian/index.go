package debian

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// index is what the suites of a state have, by name: every version of every package.
type index map[string][]Package

// dated is an index with the time of the update that brought it.
type dated struct {
	updated time.Time
	index   index
}

// index is the index of a state that the caller holds, read once for each update.
func (a *Archive) index(ctx context.Context, s *state) (index, error) {
	a.mu.Lock()
	known, ok := a.read[s.dir]
	a.mu.Unlock()
	if ok && known.updated.Equal(s.updated) {
		return known.index, nil
	}
	found, err := s.index(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.read[s.dir] = dated{updated: s.updated, index: found}
	a.mu.Unlock()
	return found, nil
}

// index reads the lists that the last update brought.
func (s *state) index(ctx context.Context) (index, error) {
	out, err := s.apt(ctx, "indextargets", "--format", "$(CREATED_BY)\t$(RELEASE)\t$(FILENAME)")
	if err != nil {
		return nil, fmt.Errorf("find apt's indexes: %w", err)
	}
	found := index{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		if len(fields) != 3 || fields[0] != "Packages" {
			continue
		}
		if err := found.read(archiveOf(fields[1]), fields[2]); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (x index) read(archive, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read an index of apt: %w", err)
	}
	defer f.Close()
	if err := parseIndex(f, func(p Package) {
		p.Archive = archive
		x[p.Name] = append(x[p.Name], p)
	}); err != nil {
		return fmt.Errorf("read apt's index %s: %w", filepath.Base(path), err)
	}
	return nil
}

// parseIndex calls found for each paragraph of a Packages file (deb822(5)) that has what a Package needs.
func parseIndex(r io.Reader, found func(Package)) error {
	var p Package
	end := func() {
		if p.Name != "" && p.Version != "" && p.Arch != "" && p.Path != "" && len(p.SHA256) == 64 && p.Size > 0 {
			found(p)
		}
		p = Package{}
	}
	// Lines are read by hand: an index has two million of them, and only seven in each paragraph matter.
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := in.ReadSlice('\n')
		for err == bufio.ErrBufferFull { // a line of a megabyte matters to nobody
			_, err = in.ReadSlice('\n')
			line = nil
		}
		if len(line) == 1 && line[0] == '\n' {
			end()
		} else if len(line) > 0 && line[0] >= 'A' && line[0] <= 'Z' {
			p.field(line)
		}
		if err == io.EOF {
			end()
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// field sets what one line of a paragraph tells.
func (p *Package) field(line []byte) {
	var to *string
	switch line[0] {
	case 'P':
		to = match(line, "Package:", &p.Name)
	case 'V':
		to = match(line, "Version:", &p.Version)
	case 'A':
		to = match(line, "Architecture:", &p.Arch)
	case 'F':
		to = match(line, "Filename:", &p.Path)
	case 'S':
		if to = match(line, "SHA256:", &p.SHA256); to == nil {
			var size string
			if match(line, "Size:", &size) != nil {
				p.Size, _ = strconv.ParseInt(strings.TrimSpace(string(line[len("Size:"):])), 10, 64)
			}
		}
	}
	if to != nil {
		_, value, _ := strings.Cut(string(line), ":")
		*to = strings.TrimSpace(value)
	}
}

func match(line []byte, name string, to *string) *string {
	if len(line) > len(name) && string(line[:len(name)]) == name {
		return to
	}
	return nil
}
