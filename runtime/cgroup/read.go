package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// noLimit is the least value that means no limit to cgroup v1, which rounds the greatest number down to a page.
const noLimit = 1 << 62

// MemoryLimit returns the limit of the guest's memory in bytes as the kernel has it; 0 when there is none, or it cannot be read.
func (t *Tree) MemoryLimit(id string) uint64 {
	for _, h := range t.hierarchies {
		if !slices.Contains(h.controllers, "memory") {
			continue
		}
		name := "memory.limit_in_bytes"
		if h.v2 {
			name = "memory.max"
		}
		text, err := os.ReadFile(filepath.Join(h.mount, t.root, id, "guest", name))
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && n < noLimit {
			return n
		}
	}
	return 0
}

// OOMKills returns how many processes of the guest's container, and of what the guest made below it, the kernel has killed because
// memory was used up; 0 also when the container's cgroup is gone. In cgroup v1 those below it do not count.
func (t *Tree) OOMKills(id string) uint64 {
	for _, h := range t.hierarchies {
		if !slices.Contains(h.controllers, "memory") {
			continue
		}
		name := "memory.oom_control"
		if h.v2 {
			name = "memory.events"
		}
		text, err := os.ReadFile(filepath.Join(h.mount, t.GuestPath(id), name))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if value, found := strings.CutPrefix(line, "oom_kill "); found {
				n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
				if err != nil {
					return 0
				}
				return n
			}
		}
	}
	return 0
}
