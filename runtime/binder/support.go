package binder

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Kind is what a kernel offers.
type Kind int

// The kinds.
const (
	// None: no binder at all.
	None Kind = iota
	// FS: binderfs, an instance for every guest.
	FS
	// Pool: a number of triples.
	Pool
)

// String returns "none", "binderfs" or "pool".
func (k Kind) String() string { return [...]string{"none", "binderfs", "pool"}[k] }

// Support is what the kernel of a host offers.
type Support struct {
	Kind Kind
	// Major is the major number of the devices of binderfs; 0 for other kinds.
	Major uint32
	// Defaults are the devices that every new instance of binderfs has from the first: the parameter devices= of the module, or
	// CONFIG_ANDROID_BINDER_DEVICES. To add one of them fails with EEXIST.
	Defaults []string
	// Triples are the pool, in order; empty for other kinds.
	Triples []Triple
}

// Device is a device node of the host.
type Device struct {
	// Path on the host, such as /dev/hwbinder1.
	Path         string
	Major, Minor uint32
}

// Triple is the three devices that one Android needs.
type Triple struct {
	// Name is that of the first device: binder, binder1, anbox-binder.
	Name string
	// Binder, HwBinder and VndBinder are for the framework, the hardware services and those of the vendor.
	Binder, HwBinder, VndBinder Device
}

// Devices returns the three in the order of Names.
func (t Triple) Devices() [3]Device { return [3]Device{t.Binder, t.HwBinder, t.VndBinder} }

// Names are what Android calls its three devices.
var Names = [3]string{"binder", "hwbinder", "vndbinder"}

// Probe reads what the host of this process offers; see Read.
func Probe() (Support, error) { return Read(os.DirFS("/")) }

// Read reads what a host offers from its files: /proc, /sys and /dev below root. binderfs is preferred to a pool. The module is not
// loaded for it.
func Read(root fs.FS) (Support, error) {
	has, err := hasFileSystem(root)
	if err != nil {
		return Support{}, err
	}
	if has {
		return readFS(root)
	}
	triples, err := readPool(root)
	if err != nil || len(triples) == 0 {
		return Support{}, err
	}
	return Support{Kind: Pool, Triples: triples}, nil
}

// hasFileSystem looks for binderfs among the kernel's file systems, where it is called binder.
func hasFileSystem(root fs.FS) (bool, error) {
	text, err := fs.ReadFile(root, "proc/filesystems")
	if err != nil {
		return false, fmt.Errorf("read the kernel's file systems: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == "binder" {
			return true, nil
		}
	}
	return false, nil
}

func readFS(root fs.FS) (Support, error) {
	s := Support{Kind: FS}
	var err error
	if s.Major, err = major(root); err != nil {
		return Support{}, err
	}
	// The driver is a module, and called so, or built into the kernel; a kernel may be built without the list.
	for _, module := range []string{"binder_linux", "binder"} {
		text, err := fs.ReadFile(root, "sys/module/"+module+"/parameters/devices")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Support{}, fmt.Errorf("read binder's list of devices: %w", err)
		}
		s.Defaults = strings.FieldsFunc(strings.TrimSpace(string(text)), func(r rune) bool { return r == ',' })
		break
	}
	return s, nil
}

// major finds the number of binderfs's devices, which the kernel picks when the driver is loaded.
func major(root fs.FS) (uint32, error) {
	f, err := root.Open("proc/devices")
	if err != nil {
		return 0, fmt.Errorf("read the kernel's device numbers: %w", err)
	}
	defer f.Close()
	characters := false
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		line := scan.Text()
		if strings.HasSuffix(line, ":") {
			characters = line == "Character devices:"
			continue
		}
		number, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !characters || name != "binder" {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("read the number of binder's devices: %w", err)
		}
		return uint32(n), nil
	}
	if err := scan.Err(); err != nil {
		return 0, fmt.Errorf("read the kernel's device numbers: %w", err)
	}
	return 0, fmt.Errorf("the kernel has binderfs but no number for its devices in /proc/devices: %w", errdefs.ErrNotFound)
}

// miscMajor is the number of the kernel's miscellaneous devices, among which nodes outside binderfs are.
const miscMajor = 10

// first matches the first device of a triple: a family such as anbox-, "binder", and the number in the pool.
var first = regexp.MustCompile(`^([a-z0-9_-]*?)binder([0-9]*)$`)

// readPool finds the complete triples among the nodes of /dev.
func readPool(root fs.FS) ([]Triple, error) {
	entries, err := fs.ReadDir(root, "dev")
	if err != nil {
		return nil, fmt.Errorf("list the device nodes: %w", err)
	}
	type place struct {
		family string
		number int
	}
	places := map[string]place{}
	var triples []Triple
	for _, e := range entries {
		m := first.FindStringSubmatch(e.Name())
		if m == nil || strings.HasSuffix(m[1], "hw") || strings.HasSuffix(m[1], "vnd") {
			continue
		}
		t := Triple{Name: e.Name()}
		complete := true
		for name, into := range map[string]*Device{
			e.Name(): &t.Binder, m[1] + "hwbinder" + m[2]: &t.HwBinder, m[1] + "vndbinder" + m[2]: &t.VndBinder,
		} {
			found := false
			if *into, found, err = device(root, name); err != nil {
				return nil, err
			}
			complete = complete && found
		}
		if !complete {
			continue
		}
		number, _ := strconv.Atoi(m[2]) // none, or too large to matter, comes first
		places[t.Name] = place{m[1], number}
		triples = append(triples, t)
	}
	slices.SortFunc(triples, func(a, b Triple) int {
		x, y := places[a.Name], places[b.Name]
		return cmp.Or(strings.Compare(x.family, y.family), cmp.Compare(x.number, y.number), strings.Compare(a.Name, b.Name))
	})
	return triples, nil
}

// device reads a node; what is not there, or is no node of the driver, is not found.
func device(root fs.FS, name string) (d Device, found bool, err error) {
	info, err := fs.Stat(root, "dev/"+name)
	if errors.Is(err, fs.ErrNotExist) {
		return Device{}, false, nil
	}
	if err != nil {
		return Device{}, false, fmt.Errorf("look at /dev/%s: %w", name, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeCharDevice == 0 || unix.Major(uint64(st.Rdev)) != miscMajor {
		return Device{}, false, nil
	}
	return Device{Path: "/dev/" + name, Major: miscMajor, Minor: unix.Minor(uint64(st.Rdev))}, true, nil
}
