package machine

import (
	"log/slog"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/lab"
)

// Config says what machine to start. Kernel and Initrd are needed; the rest has useful zero values.
type Config struct {
	Kernel lab.Kernel
	Initrd lab.Initrd
	// Root makes it a system machine: Debian with systemd. Zero is a kernel machine, whose init is the control program.
	Root lab.Root
	// Variant changes how the kernel boots; zero is the stock configuration.
	Variant Variant
	// Disk is a qcow2 overlay of Root that outlives the machine, made if it is absent; "" is a temporary one. A machine with
	// Disk is not resumed from a snapshot: the disk's state would not be the memory's.
	Disk string
	// Payload is a tar file that is unpacked at /run/payload of the guest at each boot and after Resume; "" is none.
	Payload string
	// CPUs and MemoryMiB are 2 and 768 (kernel machines) or 1536 (system machines) where zero.
	CPUs, MemoryMiB int
	// Dir takes the sockets and the serial log, which stays there; it is made if absent. "" is a directory of the cache that
	// Close removes with all in it.
	Dir string
	// Cache is the lab's cache, where what a running machine needs lies; nil is the one at asset.DefaultDir, opened for this machine.
	Cache *asset.Cache
	// Accelerator is how the guest's code runs; "" is KVM where a smoke boot has shown that it works, else TCG.
	Accelerator Accel
	// Logger takes what happens; nil discards it.
	Logger *slog.Logger

	slots string // what the names of its slots begin with; "" is hostSlots, a test has its own
}

// Accel is a way to run the guest's code.
type Accel string

// The accelerators.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg"
)

// Variant is a way to boot a kernel that differs from the stock one.
type Variant struct {
	// Name tells variants apart in names of tests and snapshots; "" is the stock one.
	Name string
	// Cmdline are words for the kernel's command line, such as "preempt=full" or "psi=0".
	Cmdline []string
	// LSM is the kernel's list of security modules, in order; nil is the kernel's own.
	LSM []string
	// Modules are options of modules: "vicodec" -> "multiplanar=1", several separated by spaces.
	Modules map[string]string
	// Without names modules that cannot be loaded: not by name, not by alias, not by the kernel itself.
	Without []string
	// CgroupV1 boots with the hierarchies of cgroup v1 alone.
	CgroupV1 bool
	// Counted is a machine whose time is the number of instructions that it has executed, one a nanosecond (QEMU's -icount shift=0): what a program
	// measures as time is then how much it does, whatever else the host has to do. It has one processor, and needs TCG. While the guest has nothing
	// to do its time passes as the host's does.
	Counted bool
}

// Snapshot is a saved machine, a directory that Save made. It can be resumed any number of times, also at once, by machines
// whose Config has the same Fingerprint.
type Snapshot struct {
	// Dir holds the memory and, of a system machine, the disk as the memory has it.
	Dir string `json:"-"`
	// Fingerprint is of the Config and the QEMU that made it.
	Fingerprint string `json:"fingerprint"`
}
