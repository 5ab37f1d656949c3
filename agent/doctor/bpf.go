package doctor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// BPFFeature is something of the kernel's BPF that policies are built on.
type BPFFeature int

const (
	// CgroupSKB: programs that judge the packets of a cgroup.
	CgroupSKB BPFFeature = iota
	// SchedCLS: programs that judge the packets of an interface.
	SchedCLS
	// LSM: programs that judge what processes do.
	LSM
	// TCX: attachment of SchedCLS programs by links, in Linux 6.6 and later.
	TCX
)

// String names the feature.
func (f BPFFeature) String() string {
	return [...]string{"cgroup_skb programs", "sched_cls programs", "lsm programs", "tcx links"}[f]
}

// probeBPF tells whether the kernel has a feature by using it: programs are loaded and freed at once.
func probeBPF(f BPFFeature) error {
	switch f {
	case CgroupSKB:
		return features.HaveProgramType(ebpf.CGroupSKB)
	case SchedCLS:
		return features.HaveProgramType(ebpf.SchedCLS)
	case LSM:
		return features.HaveProgramType(ebpf.LSM)
	default:
		return probeTCX()
	}
}

// probeTCX links a program to an interface that cannot exist: a kernel that has tcx misses the interface.
func probeTCX() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer prog.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: prog, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return errors.Join(fmt.Errorf("a program was linked to interface %d, which should not exist", math.MaxInt32), l.Close())
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// checkBPFPrograms tells which program types the kernel takes.
func checkBPFPrograms(_ context.Context, h *Host) Finding {
	var missing []string
	for _, f := range []BPFFeature{CgroupSKB, SchedCLS, LSM} {
		if err := h.BPF(f); err != nil {
			missing = append(missing, fmt.Sprintf("%s (%v)", f, err))
		}
	}
	if len(missing) > 0 {
		return warn("run the agent as root on a kernel with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF, CONFIG_NET_CLS_BPF and CONFIG_BPF_LSM",
			"the kernel refuses %s", strings.Join(missing, ", "))
	}
	if err := h.BPF(TCX); err != nil {
		return ok("cgroup_skb, sched_cls and lsm programs load; no tcx links (Linux 6.6), tc filters are used instead")
	}
	return ok("cgroup_skb, sched_cls and lsm programs load; tcx links are there")
}

// checkGuard tells whether phones of profiles whose guests may mount can be had.
func checkGuard(_ context.Context, h *Host) Finding {
	if h.Guard == nil {
		return ok("guests that may mount (redroid, waydroid) are kept from the host by BPF LSM")
	}
	return warn("use a kernel with BPF LSM (arm64: Linux 6.4 or later) and bpf in its lsm= option; until then phones of profiles redroid and waydroid start only with "+
		"runtime.allow_unguarded, which gives root of such a guest the host", "nothing keeps guests that may mount (redroid, waydroid) from the host: %v", h.Guard)
}

// checkAppLists tells what a list of apps is worth on this host.
func checkAppLists(_ context.Context, h *Host) Finding {
	if h.AppLists == nil {
		return ok("not asked")
	}
	s := h.AppLists()
	gaps := s.Gaps()
	switch {
	case gaps == "":
		return ok("apps that a list denies cannot be installed, do not run and have no network (tier %s, %s)", s.Tier, s.Mechanism)
	case !s.Install && !s.Launch && !s.Network:
		return warn("use a kernel with cgroup v2 and CONFIG_CGROUP_BPF, and mount -t bpf bpf /sys/fs/bpf; then restart the agent",
			"lists of apps are told to the guests, which need not obey: %s", gaps)
	}
	return warn("use a kernel with BTF and BPF LSM (Linux 5.17, arm64: 6.4) and bpf in its lsm= option (docs/app-policy.md), and restart the agent; until then phones on strict lists do not start",
		"lists of apps are not enforced in full: %s", gaps)
}

// checkBTF looks for the kernel's type information.
func checkBTF(_ context.Context, h *Host) Finding {
	if !h.exists("sys/kernel/btf/vmlinux") {
		return warn("use a kernel with CONFIG_DEBUG_INFO_BTF=y", "the kernel has no type information (/sys/kernel/btf/vmlinux): app lists cannot be enforced")
	}
	return ok("the kernel has its type information")
}

// checkBPFLSM looks whether BPF programs may judge.
func checkBPFLSM(_ context.Context, h *Host) Finding {
	const remedy = `add bpf to the kernel's lsm= option (on Debian: GRUB_CMDLINE_LINUX="lsm=...,bpf" in /etc/default/grub, update-grub, reboot)`
	text, err := h.read("sys/kernel/security/lsm")
	if err != nil {
		return warn("mount -t securityfs securityfs /sys/kernel/security", "the active security modules cannot be read: %v", err)
	}
	for _, name := range strings.Split(text, ",") {
		if name == "bpf" {
			return ok("bpf is among the active security modules (%s)", text)
		}
	}
	return warn(remedy, "bpf is not among the active security modules (%s): app lists may not be enforced in full", text)
}
