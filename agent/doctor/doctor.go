// Package doctor checks the host that the agent runs on and says how to mend what it finds.
//
// Every check is a small function over a Host: the host's files below one root, and a few probes that are functions, so that
// a test can hand it any host. Checks change nothing on the host; the BPF probes load programs that are freed at once, what networks need is
// tried in a namespace that goes with the try, and the check of firewalls makes a link and a table for some tens of milliseconds. The
// package holds no state. Run runs all checks side by side, each in a goroutine that it waits for and within a deadline.
package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/agent/applist"
	"github.com/phonehost/phonehost/agent/health"
)

// Severity says how bad a finding is. The numbers are those of the API's Severity.
type Severity int

const (
	// OK: as it should be.
	OK Severity = iota + 1
	// Warning: something works less well than it could.
	Warning
	// Error: something that phones need does not work.
	Error
)

// String returns "ok", "warning" or "error".
func (s Severity) String() string {
	switch s {
	case OK:
		return "ok"
	case Warning:
		return "warning"
	default:
		return "error"
	}
}

// Finding is what one check found.
type Finding struct {
	// Check is the name of the check, such as "loop-devices".
	Check string
	// Severity of it.
	Severity Severity
	// Message says what was found.
	Message string
	// Remedy says how to mend it; empty when there is nothing to mend.
	Remedy string
}

// timeout is how long one check may take: the encoder's probe encodes a frame with every encoder there is.
const timeout = 15 * time.Second

// Config says what this host should be checked for. Empty fields leave out what they name.
type Config struct {
	// StateDir holds the phones' data; DiskReserveBytes must stay free there.
	StateDir         string
	DiskReserveBytes uint64
	// DisplayBinary is the path of phone-display.
	DisplayBinary string
	// SocketGroup is the group that owns the agent's socket.
	SocketGroup string
	// Cert, Key and CA are the files of the network doors.
	Cert, Key, CA string
	// Containerd asks containerd for its version.
	Containerd func(context.Context) (string, error)
	// ContainerdAddress is where it listens, for messages.
	ContainerdAddress string
	// Guard tells why guests that may mount are not kept from the host; nil where they are.
	Guard error
	// AppLists tells what the kernel refuses to the apps of phones.
	AppLists func() applist.Status
	// Networks is what phones' networks need of the host; nil where phones have none.
	Networks Networks
	// Health is the register whose standing warnings are reported too; may be nil.
	Health *health.Registry
}

// Host is what the checks see.
type Host struct {
	Config
	// Root is the host's file system; names have no leading slash.
	Root fs.FS
	// Now tells the time.
	Now func() time.Time
	// Release returns the kernel's release, as uname -r prints it.
	Release func() (string, error)
	// Command runs a program and returns what it prints on both outputs.
	Command func(ctx context.Context, name string, args ...string) ([]byte, error)
	// LookPath finds a program.
	LookPath func(name string) (string, error)
	// Free returns the size of and the free space in the file system of a directory, in bytes.
	Free func(dir string) (size, free uint64, err error)
	// Group tells whether the host has a group.
	Group func(name string) error
	// ClockSynchronised tells whether the kernel's clock is kept right by something.
	ClockSynchronised func() (bool, error)
	// BPF tells whether the kernel has a BPF feature; an error says why not.
	BPF func(feature BPFFeature) error
	// SameMounts tells whether the agent sees the mounts of the host's first process.
	SameMounts func() (bool, error)
	// Unit is the systemd unit that the agent runs in, or empty.
	Unit string
}

// Doctor checks one host. Its methods may be called by any goroutine.
type Doctor struct{ host *Host }

// New returns a doctor for the host that it runs on.
func New(config Config) *Doctor {
	return NewFor(&Host{
		Config:   config,
		Root:     os.DirFS("/"),
		Now:      time.Now,
		Release:  release,
		Command:  command,
		LookPath: exec.LookPath,
		Free:     Free,
		Group: func(name string) error {
			_, err := user.LookupGroup(name)
			return err
		},
		ClockSynchronised: clockSynchronised,
		BPF:               probeBPF,
		SameMounts:        sameMounts,
		Unit:              unit(os.DirFS("/"), os.Getenv("INVOCATION_ID")),
	})
}

// NewFor returns a doctor for any host.
func NewFor(host *Host) *Doctor { return &Doctor{host: host} }

// Run runs all checks and returns a finding for each, in the order of Checks.
func (d *Doctor) Run(ctx context.Context) []Finding {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	checks := Checks()
	findings := make([]Finding, len(checks))
	var all sync.WaitGroup
	for i, c := range checks {
		all.Go(func() {
			findings[i] = c.Run(ctx, d.host)
			findings[i].Check = c.Name
		})
	}
	all.Wait()
	return findings
}

// Check is one check.
type Check struct {
	// Name of it.
	Name string
	// Run returns what it found; it ends with ctx.
	Run func(ctx context.Context, h *Host) Finding
}

// Checks returns all checks in their order.
func Checks() []Check {
	return []Check{
		{"kernel", checkKernel},
		{"cgroups", checkCgroups},
		{"containerd", checkContainerd},
		{"runc", checkRunc},
		{"loop-devices", checkLoop},
		{"ext4", checkExt4},
		{"inotify", checkInotify},
		{"pid-max", checkPidMax},
		{"core-pattern", checkCorePattern},
		{"btf", checkBTF},
		{"bpf-lsm", checkBPFLSM},
		{"bpf-programs", checkBPFPrograms},
		{"guard", checkGuard},
		{"app-lists", checkAppLists},
		{"network", checkNetwork},
		{"bpffs", checkBPFFS},
		{"pools", networked(checkPools)},
		{"uplink", networked(checkUplink)},
		{"forwarding", networked(checkForwarding)},
		{"attach", networked(checkAttach)},
		{"connections", networked(checkConnections)},
		{"bandwidth", networked(checkBandwidth)},
		{"firewall", networked(checkFirewall)},
		{"port-53", networked(checkPort53)},
		{"name-server", networked(checkNameServer)},
		{"binder", checkBinder},
		{"encoder", checkEncoder},
		{"certificates", checkCertificates},
		{"disk", checkDisk},
		{"clock", checkClock},
		{"socket-group", checkGroup},
		{"systemd", checkSystemd},
		{"health", checkHealth},
	}
}

func ok(format string, args ...any) Finding {
	return Finding{Severity: OK, Message: fmt.Sprintf(format, args...)}
}

func warn(remedy, format string, args ...any) Finding {
	return Finding{Severity: Warning, Message: fmt.Sprintf(format, args...), Remedy: remedy}
}

func bad(remedy, format string, args ...any) Finding {
	return Finding{Severity: Error, Message: fmt.Sprintf(format, args...), Remedy: remedy}
}

// command runs a program that gets little time to end once ctx has.
func command(ctx context.Context, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.WaitDelay = time.Second
	return c.CombinedOutput()
}

// release returns the kernel's release.
func release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// Free returns the size of and the free space in the file system of a directory, in bytes.
func Free(dir string) (size, free uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}

// clockSynchronised asks the kernel, which something like chrony tells.
func clockSynchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, fmt.Errorf("adjtimex: %w", err)
	}
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, nil
}

// sameMounts compares the mount namespaces of the agent and of the first process.
func sameMounts() (bool, error) {
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false, err
	}
	first, err := os.Readlink("/proc/1/ns/mnt")
	if err != nil {
		return false, err
	}
	return ours == first, nil
}
