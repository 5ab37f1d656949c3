package soak

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// takeNetworks finds the interfaces in the phones' network namespaces. An end of a pair lives as long as the other, so what would be left
// of a pair on the host is seen here too.
func (h *host) takeNetworks(add func(kind, name string)) error {
	files, err := filepath.Glob(h.path("run", "netns", "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		links, err := linksOf(file)
		if err != nil {
			return err
		}
		for _, name := range links {
			add("interface", filepath.Base(file)+"/"+name)
		}
	}
	return nil
}

// linksOf lists the interfaces of a namespace by its file. One that is being made or removed has none.
func linksOf(file string) ([]string, error) {
	ns, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var names []string
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, which is in the namespace, ends with the goroutine
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if errors.Is(err, unix.EINVAL) {
			err = nil // a plain file: nothing is mounted on it
		} else if err == nil {
			var links []net.Interface
			links, err = net.Interfaces()
			for _, l := range links {
				names = append(names, l.Name)
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return nil, fmt.Errorf("interfaces of %s: %w", file, err)
	}
	return names, nil
}

// bpfDir is where BPF file systems are mounted, and what is pinned lies.
const bpfDir = "/sys/fs/bpf"

// takePins finds what is pinned for this host: pins are named from the phones' cgroup, and that is named as the host's directory.
func (h *host) takePins(add func(kind, name string)) error {
	return filepath.WalkDir(bpfDir, func(path string, _ fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil // no BPF file system, or it has just been removed
		case err != nil:
			return err
		case strings.Contains(path, filepath.Base(h.dir)):
			add("pin", path)
		}
		return nil
	})
}
