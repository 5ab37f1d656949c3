package doctor

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Facts is what a host is and has.
type Facts struct {
	// Kernel is its release, Arch its architecture in Go's words.
	Kernel, Arch string
	// CPUs are online.
	CPUs uint32
	// MemoryBytes it has, MemoryAvailableBytes it could give out now.
	MemoryBytes, MemoryAvailableBytes uint64
	// DiskBytes and DiskAvailableBytes of the file system that was asked for.
	DiskBytes, DiskAvailableBytes uint64
}

// ReadFacts reads the facts of this host, and of the file system of dir.
func ReadFacts(dir string) (Facts, error) {
	root := os.DirFS("/")
	f := Facts{Arch: runtime.GOARCH}
	var err error
	if f.Kernel, err = release(); err != nil {
		return Facts{}, err
	}
	if f.CPUs, err = onlineCPUs(root); err != nil {
		f.CPUs = uint32(runtime.NumCPU()) // those that the agent may use: all, unless it is confined
	}
	if f.MemoryBytes, f.MemoryAvailableBytes, err = memory(root); err != nil {
		return Facts{}, err
	}
	if f.DiskBytes, f.DiskAvailableBytes, err = Free(dir); err != nil {
		return Facts{}, err
	}
	return f, nil
}

// onlineCPUs counts a list like "0-3,8".
func onlineCPUs(root fs.FS) (uint32, error) {
	const name = "sys/devices/system/cpu/online"
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, fmt.Errorf("count cores: %w", err)
	}
	total := uint64(0)
	for _, part := range strings.Split(strings.TrimSpace(string(b)), ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 16)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(to, 10, 16)
		}
		if err != nil || last < first {
			return 0, fmt.Errorf("count cores: %s holds %q", name, strings.TrimSpace(string(b)))
		}
		total += last - first + 1
	}
	return uint32(total), nil
}

// memory reads MemTotal and MemAvailable.
func memory(root fs.FS) (total, available uint64, err error) {
	f, err := root.Open("proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("read memory: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 54)
		switch {
		case err != nil:
		case name == "MemTotal":
			total = n << 10
		case name == "MemAvailable":
			available = n << 10
		}
	}
	if total == 0 || available == 0 {
		return 0, 0, fmt.Errorf("read memory: /proc/meminfo has no MemTotal or MemAvailable")
	}
	return total, available, nil
}
