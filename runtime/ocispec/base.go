package ocispec

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// base is what both containers have in common.
func base(cgroupsPath string, l Limits) *specs.Spec {
	oomScore := 0
	return &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Cwd:             "/",
			NoNewPrivileges: true,
			OOMScoreAdj:     &oomScore, // or it would have the shim's, which the kernel spares
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_CORE"},
				{Type: "RLIMIT_NOFILE", Hard: l.Files, Soft: l.Files},
			},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroupsPath,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace},
			},
			Resources: resources(l),
		},
	}
}

func resources(l Limits) *specs.LinuxResources {
	r := &specs.LinuxResources{
		Devices: append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, allowed(commonDevices)...),
		Pids:    &specs.LinuxPids{Limit: &l.PIDs},
	}
	if l.MemoryBytes > 0 {
		limit := int64(l.MemoryBytes)
		r.Memory = &specs.LinuxMemory{Limit: &limit}
		if l.SwapAccounting {
			r.Memory.Swap = &limit // memory and swap together
		}
	}
	if l.CPUs > 0 {
		quota, period := l.CPUQuota(), uint64(CPUPeriod)
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	return r
}

// number is a device number; a negative minor means any.
type number struct{ major, minor int64 }

var (
	// null, zero, full, random, urandom: runc makes these nodes in every /dev.
	commonDevices = []number{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}}
	// tty, ptmx and the pseudo-terminals of the container's own devpts.
	terminalDevices = []number{{5, 0}, {5, 2}, {136, -1}}
)

func allowed(devices []number) []specs.LinuxDeviceCgroup {
	var rules []specs.LinuxDeviceCgroup
	for _, d := range devices {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d.major, Access: "rw"}
		if d.minor >= 0 {
			rule.Minor = &d.minor
		}
		rules = append(rules, rule)
	}
	return rules
}

func tmpfs(path string, mode uint32, bytes, files uint64, options ...string) specs.Mount {
	options = append(options, fmt.Sprintf("mode=%04o", mode), fmt.Sprintf("size=%d", bytes), fmt.Sprintf("nr_inodes=%d", files))
	return specs.Mount{Destination: path, Type: "tmpfs", Source: "tmpfs", Options: options}
}
