package machine

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

// payloadBytes is the size of every payload drive: a snapshot is resumed with one of the size that it was saved with.
const payloadBytes = 1 << 30

// platform is what differs between the architectures.
type platform struct {
	qemu    string   // the program
	machine []string // its arguments for an emulated board
	console string
	cpu     string // under TCG
	// threads is "multi" or "single": how the processors run under TCG. Linux on x86 patches its code while other processors run it
	// (static keys), which it does not always survive where each has a thread of its own: "Oops: int3" at the first cpu.max, twice in
	// about eight runs of a phone under QEMU 7.2.
	threads string
}

var platforms = map[string]platform{
	// qemu64 is the fastest of the models that systemd and Go run on; "max" makes the kernel use what TCG does slowly.
	"amd64": {"qemu-system-x86_64", []string{"-M", "q35"}, "ttyS0", "qemu64", "single"},
	// Pointer authentication by the architecture's own cipher costs two thirds of the speed.
	"arm64": {"qemu-system-aarch64", []string{"-M", "virt,gic-version=3"}, "ttyAMA0", "max,pauth-impdef=on", "multi"},
}

// emulator is the QEMU of one architecture.
type emulator struct {
	platform
	path    string
	version string
}

func findEmulator(ctx context.Context, arch string) (emulator, error) {
	p, ok := platforms[arch]
	if !ok {
		return emulator{}, fmt.Errorf("architecture %q, want amd64 or arm64: %w", arch, errdefs.ErrInvalidArgument)
	}
	path, err := host.Look(p.qemu)
	if err != nil {
		return emulator{}, err
	}
	out, err := host.Output(ctx, path, "--version")
	if err != nil {
		return emulator{}, err
	}
	version, _, _ := strings.Cut(string(out), "\n")
	return emulator{p, path, version}, nil
}

// checked returns the configuration with its defaults filled in, or says what is wrong with it.
func (c Config) checked() (Config, error) {
	c.CPUs = max(c.CPUs, 0)
	if c.CPUs == 0 {
		c.CPUs = 2
		if c.Variant.Counted {
			c.CPUs = 1
		}
	}
	if c.Variant.Counted && (c.CPUs > 1 || c.Accelerator == KVM) {
		return c, fmt.Errorf("machine that counts instructions with %d processors and accelerator %q, want 1 and %s: %w", c.CPUs, c.Accelerator, TCG, errdefs.ErrInvalidArgument)
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 768
		if c.system() {
			c.MemoryMiB = 1536
		}
	}
	if c.MemoryMiB < 128 {
		return c, fmt.Errorf("machine with %d MiB of memory, at least 128 are needed: %w", c.MemoryMiB, errdefs.ErrInvalidArgument)
	}
	if c.Disk != "" && !c.system() {
		return c, fmt.Errorf("machine with disk %s and without Root, whose overlay it is: %w", c.Disk, errdefs.ErrInvalidArgument)
	}
	for what, path := range map[string]string{"kernel": c.Kernel.Image, "modules": c.Kernel.Modules, "initrd": c.Initrd.Path} {
		if path == "" {
			return c, fmt.Errorf("machine without %s: %w", what, errdefs.ErrInvalidArgument)
		}
	}
	if c.system() && c.Root.Arch != c.Kernel.Arch {
		return c, fmt.Errorf("machine with a kernel for %s and a root for %s: %w", c.Kernel.Arch, c.Root.Arch, errdefs.ErrInvalidArgument)
	}
	// QEMU's own words on a file that is not there do not say what the file is.
	for _, path := range []string{c.Kernel.Image, c.Kernel.Modules, c.Initrd.Path, c.Root.Image, c.Payload} {
		if _, err := os.Stat(path); path != "" && err != nil {
			return c, fmt.Errorf("look for what the machine needs: %w", err)
		}
	}
	return c, nil
}

func (c Config) system() bool { return c.Root.Image != "" }

// kind is what the kernel's command line tells the initrd.
func (c Config) kind() string {
	if c.system() {
		return "system"
	}
	return "kernel"
}

// commandLine is the kernel's.
func (c Config) commandLine(p platform) string {
	words := []string{
		"console=" + p.console, "panic=-1", "quiet", "net.ifnames=0",
		"phonehost.vm=" + c.kind(), "phonehost.release=" + c.Kernel.Release,
		// There is nothing to protect a guest's kernel from, and what protects it is slow when emulated.
		"mitigations=off", "audit=0", "random.trust_cpu=on", "cryptomgr.notests",
	}
	if c.Kernel.Arch == "amd64" {
		// A busy host is late with the first interrupts of the timer, which the kernel takes for a broken board.
		words = append(words, "8250.nr_uarts=1", "tsc=reliable", "no_timer_check")
	}
	if c.Variant.LSM != nil {
		words = append(words, "lsm="+strings.Join(c.Variant.LSM, ","))
	}
	if c.Variant.CgroupV1 {
		words = append(words, "systemd.unified_cgroup_hierarchy=0", "systemd.legacy_systemd_cgroup_controller=1")
	}
	if len(c.Variant.Without) > 0 {
		words = append(words, "module_blacklist="+strings.ReplaceAll(strings.Join(c.Variant.Without, ","), "-", "_"))
	}
	for _, module := range sortedKeys(c.Variant.Modules) {
		for _, option := range strings.Fields(c.Variant.Modules[module]) {
			words = append(words, strings.ReplaceAll(module, "-", "_")+"."+option)
		}
	}
	return strings.Join(append(words, c.Variant.Cmdline...), " ")
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// devices are QEMU's arguments that a snapshot depends on, but for the paths of files.
func (c Config) devices(e emulator, accel Accel) []string {
	args := append([]string{"-nodefaults", "-no-user-config", "-display", "none"}, e.machine...)
	switch {
	case accel == KVM:
		args = append(args, "-accel", "kvm", "-cpu", "host")
	case c.Variant.Counted:
		args = append(args, "-accel", "tcg,thread=single", "-icount", "shift=0", "-cpu", e.cpu)
	default:
		args = append(args, "-accel", "tcg,thread="+e.threads, "-cpu", e.cpu)
	}
	args = append(args,
		"-smp", strconv.Itoa(c.CPUs), "-m", strconv.Itoa(c.MemoryMiB), "-append", c.commandLine(e.platform),
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=control,id=control,name="+control.Port,
		"-netdev", "user,id=net,restrict=on,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-rng-pci", "-device", "i6300esb", "-action", "watchdog=reset")
	for _, drive := range c.drives() {
		args = append(args, "-device", "virtio-blk-pci,drive="+drive+",serial="+drive)
	}
	return args
}

func (c Config) drives() []string {
	if c.system() {
		return []string{"modules", "payload", "root"}
	}
	return []string{"modules", "payload"}
}

// Descriptors that QEMU inherits.
const (
	qmpFD     = 3
	controlFD = 4
)

// arguments are all of QEMU's.
func (c Config) arguments(e emulator, accel Accel, dir *directory, disk string) []string {
	args := append(c.devices(e, accel),
		"-kernel", c.Kernel.Image, "-initrd", c.Initrd.Path,
		"-chardev", "socket,id=qmp,fd="+strconv.Itoa(qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=control,server=on,wait=off,fd="+strconv.Itoa(controlFD),
		"-chardev", "file,id=serial,append=on,path="+escape(dir.file(serialFile)), "-serial", "chardev:serial",
		"-drive", "if=none,id=modules,format=raw,readonly=on,file="+escape(c.Kernel.Modules),
		"-drive", "if=none,id=payload,format=raw,readonly=on,file="+escape(dir.file(payloadFile)))
	if c.system() {
		args = append(args, "-drive", "if=none,id=root,format=qcow2,cache=unsafe,file="+escape(disk))
	}
	return args
}

// escape writes a path as a value of an option of QEMU's.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// makePayload makes the payload drive: the tar file and zeros.
func makePayload(from, to string) error {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make the payload drive: %w", err)
	}
	defer out.Close()
	if from != "" {
		in, err := os.Open(from)
		if err != nil {
			return fmt.Errorf("make the payload drive: %w", err)
		}
		defer in.Close()
		n, err := io.Copy(out, in)
		if err != nil {
			return fmt.Errorf("copy %s to the payload drive: %w", from, err)
		}
		if n > payloadBytes {
			return fmt.Errorf("payload %s has %d bytes, at most %d fit: %w", from, n, payloadBytes, errdefs.ErrInvalidArgument)
		}
	}
	if err := out.Truncate(payloadBytes); err != nil {
		return fmt.Errorf("make the payload drive: %w", err)
	}
	return out.Close()
}

// makeOverlay makes a qcow2 file of what changes on top of another image.
func makeOverlay(ctx context.Context, path, base, format string) error {
	base, err := filepath.Abs(base)
	if err != nil {
		return err
	}
	if _, err := host.Output(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", format, path); err != nil {
		return fmt.Errorf("make disk %s over %s: %w", path, base, err)
	}
	return nil
}
