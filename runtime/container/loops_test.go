package container_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// deviceGrace is how long a loop device without a mount may stay because somebody looks at it: as long as package volume waits for one.
const deviceGrace = 10 * time.Second

// loops lists the files of this host that loop devices have.
func (h *host) loops() []string {
	h.t.Helper()
	return slices.Sorted(maps.Keys(h.loopDevices()))
}

// loopDevices are the loop devices that have files of this host, by file.
func (h *host) loopDevices() map[string]string {
	h.t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		h.t.Fatal(err)
	}
	found := make(map[string]string)
	for _, file := range files {
		name, err := os.ReadFile(file)
		if err == nil && strings.HasPrefix(string(name), h.config.StateDir) {
			found[strings.TrimSpace(string(name))] = "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file)))
		}
	}
	return found
}

// noLoops is an error if loop devices have files of this host. One whose file system is mounted must be gone already. One that is only
// open is waited for, since the kernel keeps it until its last user closes it: where there is udev, that is one that reads what is on each
// device that appears or was written to, and is late on a host with much to do.
func (h *host) noLoops(when string) {
	h.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(deviceGrace); ; <-tick.C {
		left := h.loopDevices()
		if len(left) == 0 {
			return
		}
		for file, device := range left {
			switch _, err := os.Stat("/sys/fs/ext4/" + filepath.Base(device)); {
			case err == nil:
				h.t.Errorf("%s %s of %s is mounted", when, device, file)
				return
			case time.Now().After(deadline):
				h.t.Errorf("%s %s has %s, and is open in %v", when, device, file, openIn(device))
				return
			}
		}
	}
}

// openIn names the processes that have a file open, "123 (udevd)".
func openIn(path string) []string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is right
	var found []string
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != path {
			continue // closed meanwhile, or another file
		}
		process := filepath.Dir(filepath.Dir(link))
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		if err == nil {
			found = append(found, filepath.Base(process)+" ("+strings.TrimSpace(string(name))+")")
		}
	}
	return slices.Compact(found)
}
