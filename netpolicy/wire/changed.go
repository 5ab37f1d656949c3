package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Setting is a switch of the host's that was changed for phones.
type Setting struct {
	// Name is what sysctl(8) calls it, such as "net.ipv4.conf.eth0.forwarding"; a dot within a link's name is written as "/".
	Name string
	// Before is its value before the first change, and Now the one that it has.
	Before, Now string
}

// former is what is kept of a setting: the value before the first change, and the one that was set.
type former struct {
	Before string `json:"before"`
	Set    string `json:"set"`
}

// change sets a setting of the host's, and keeps what it was before. That this cannot be kept is no reason to leave phones without a
// network.
func (w *Wire) change(s setting) error {
	now, err := readSetting(s.path)
	if err != nil || now == s.value {
		return err
	}
	if err := w.keep(s.path, former{Before: now, Set: s.value}); err != nil {
		w.log.Warn("what a setting of the host's was is not kept, so it is not set back when networks are removed", "setting", sysctlName(s.path), "before", now, "error", err)
	}
	return s.set()
}

// keep writes down what a setting was, unless that is known.
func (w *Wire) keep(path string, f former) error {
	if w.config.Settings == "" {
		return nil
	}
	w.keeping.Lock()
	defer w.keeping.Unlock()
	all, err := w.kept()
	if err != nil {
		return err
	}
	if _, known := all[path]; known {
		return nil
	}
	all[path] = f
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	fresh := w.config.Settings + ".new"
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		return fmt.Errorf("keep what settings were: %w", err)
	}
	if err := os.Rename(fresh, w.config.Settings); err != nil {
		return fmt.Errorf("keep what settings were: %w", err)
	}
	return nil
}

// kept returns what was written down.
func (w *Wire) kept() (map[string]former, error) {
	all := map[string]former{}
	text, err := os.ReadFile(w.config.Settings)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("read what settings were (%s, which may be removed): %w", w.config.Settings, err)
	}
	return all, nil
}

// Restore gives the host's settings their values back that they had before Ensure changed them, where nobody else can have come to need
// them, and forgets them. left are those that stay: IPv6 forwarding of all links with the accept_ra that goes with it, and switches of
// single links on a host that has the same switch on for all. Settings that have a third value by now are somebody else's, and no part of
// either.
func (w *Wire) Restore() (restored, left []Setting, err error) {
	if w.config.Settings == "" {
		return nil, nil, nil
	}
	w.keeping.Lock()
	defer w.keeping.Unlock()
	all, err := w.kept()
	if err != nil {
		return nil, nil, err
	}
	for _, path := range slices.Sorted(maps.Keys(all)) {
		f := all[path]
		now, err := readSetting(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && now != f.Set {
			continue
		}
		if err != nil {
			return restored, left, err
		}
		if shared, err := sharedSetting(path, f.Set); err != nil {
			return restored, left, err
		} else if shared {
			left = append(left, Setting{Name: sysctlName(path), Before: f.Before, Now: now})
			continue
		}
		if err := (setting{path: path, value: f.Before}).set(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return restored, left, err
		}
		restored = append(restored, Setting{Name: sysctlName(path), Before: f.Before, Now: f.Before})
	}
	if err := os.Remove(w.config.Settings); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return restored, left, fmt.Errorf("forget what settings were: %w", err)
	}
	return restored, left, nil
}

// sharedSetting tells whether others may rely on a value: it is that of all links, or belongs to it.
func sharedSetting(path, value string) (bool, error) {
	parts := strings.Split(path, "/") // ipv4/conf/eth0/forwarding
	if parts[2] == "all" || parts[3] == "accept_ra" {
		return true, nil
	}
	parts[2] = "all"
	ofAll, err := readSetting(filepath.Join(parts...))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return ofAll == value, err
}

// sysctlName is a setting's name for sysctl(8).
func sysctlName(path string) string {
	return "net." + strings.NewReplacer("/", ".", ".", "/").Replace(path)
}
