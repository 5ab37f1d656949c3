// Package guard keeps guests that may mount from what is the host's.
//
// Android's init needs CAP_SYS_ADMIN in the host's user namespace, and with it root of a guest can mount a procfs of its own, or take
// away the mounts that hide parts of the one that it has: /proc/sysrq-trigger restarts the host, /proc/sys/kernel/core_pattern runs
// programs as the host's root. No capability, namespace or seccomp filter is between. Programs on the kernel's security hooks (BPF LSM)
// are. They judge the processes below the cgroups of guests, by cgroup id, and let all others pass:
//
//	sb_mount       new file systems only of kinds that belong to the guest (tmpfs, fuse, cgroup, overlay...); no remount of one
//	file_open      in any procfs, however it was reached: files of the kernel (not of processes) cannot be opened for writing, and some
//	               not at all; of /proc/sys only what is the guest's own network namespace's can be written. In any sysfs nothing can.
//	               In cgroup v1 the rules for devices are no guest's to change.
//	netlink_send   messages about links name no other network namespace: whoever has CAP_NET_ADMIN in the host's user namespace could else
//	               make, change and remove links of the host's, which it knows as where the other end of its own link is
//	bpf            a guest's own BPF objects are its own; commands that reach others' are refused: whoever has CAP_SYS_ADMIN in the host's
//	               user namespace could else find links of the host by their ids and detach them. seccomp refuses the same (seccomp.ForeignBPF),
//	               where it is in force
//	inode_setattr  owners and modes of those files, which procfs keeps for the whole host, stay as they are
//
// The programs need Linux 5.17 (arm64: 6.4) with BTF and "bpf" among the security modules. Attaching succeeds also where nothing is
// enforced, so Open tries it out. Links and the map of guests are pinned: what was protected stays so when the agent ends or is killed, and
// the next one finds it. A new version of the programs is attached before the old one goes.
//
// A Guard may be used by several goroutines.
package guard
