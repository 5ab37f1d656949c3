package profile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// testphone is the project's own small image, which keeps Android's contracts (scripts/testphone).
//
// It has no CAP_SYS_ADMIN, as it mounts nothing, and keeps CAP_SYS_BOOT, so that the exit tells a reboot from a power-off.
var testphone = Profile{
	Name: "testphone",
	Args: bootArgs,
	Env: []string{
		"PATH=/system/bin:/system/xbin:/vendor/bin",
		"ANDROID_ROOT=/system", "ANDROID_DATA=/data", "HOME=/data", "TMPDIR=/data/local/tmp",
		"XDG_RUNTIME_DIR=/run/wayland", "WAYLAND_DISPLAY=wayland-0",
	},
	Capabilities: []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW",
		"CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_BOOT", "CAP_SYS_CHROOT",
	},
	ReadonlyRoot: true,
	Tmpfs:        []Tmpfs{{Path: "/tmp", Mode: 0o1777, Bytes: 16 << 20, Files: 4096}},
	WaylandDir:   "/run/wayland",
	MaxPIDs:      4096,
	Binder:       BinderOptional,

	BootCompletedArgs: []string{"getprop", "sys.boot_completed"},
	BootCompleted:     func(stdout string) bool { return strings.TrimSpace(stdout) == "1" },
	ShutdownArgs:      []string{"setprop", "sys.powerctl", "shutdown"},
	Ending:            pidNamespaceEnding,
}

// bootArgs gives init its properties as redroid's does: androidboot.NAME becomes ro.boot.NAME, other names stay. What the owner of
// the phone sets comes last, in order of names, and wins.
func bootArgs(b Boot) []string {
	args := []string{"/init", "androidboot.serialno=" + b.ID, fmt.Sprintf("androidboot.phonehost_dpi=%d", b.DPI)}
	for _, name := range slices.Sorted(maps.Keys(b.Properties)) {
		args = append(args, name+"="+b.Properties[name])
	}
	return args
}
