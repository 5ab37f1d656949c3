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
func testphone() *Profile {
	return &Profile{
		Name:            "testphone",
		Args:            testphoneArgs,
		CheckProperties: checkArguments,
		Env: []string{
			"PATH=/system/bin:/system/xbin:/vendor/bin",
			"ANDROID_ROOT=/system", "ANDROID_DATA=/data", "HOME=/data", "TMPDIR=/data/local/tmp",
			"XDG_RUNTIME_DIR=/run/wayland", "WAYLAND_DISPLAY=wayland-0",
		},
		Capabilities: []string{
			"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW",
			"CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_BOOT", "CAP_SYS_CHROOT",
		},
		MaxPIDs:      4096,
		ReadonlyRoot: true,
		Tmpfs:        []Tmpfs{{Path: "/tmp", Mode: 0o1777, Bytes: 16 << 20, Files: 4096}},
		Files:        []File{{Path: "/etc/resolv.conf", Content: resolvConf}},
		WaylandDir:   "/run/wayland",
		Binder:       BinderOptional,
		BinderDir:    "/dev/binderfs",

		BootCompletedArgs: bootCompletedArgs,
		BootCompleted:     bootCompleted,
		Shutdown:          Shutdown{Args: []string{"setprop", "sys.powerctl", "shutdown"}},
		Ending:            pidNamespaceEnding,

		Shell:           []string{"/system/bin/sh"},
		PackageManager:  []string{"pm"},
		ActivityManager: []string{"am"},
		PackageList:     packageList,
	}
}

// testphoneArgs gives init its properties as redroid's does: androidboot.NAME becomes ro.boot.NAME, other names stay. What the owner
// of the phone sets comes last, in order of names, and wins.
func testphoneArgs(b Boot) []string {
	args := []string{"/init", "androidboot.serialno=" + b.ID, fmt.Sprintf("androidboot.phonehost_dpi=%d", b.DPI)}
	for _, name := range slices.Sorted(maps.Keys(b.Properties)) {
		args = append(args, name+"="+b.Properties[name])
	}
	return args
}

// resolvConf names the guest's name servers to what is no Android program.
func resolvConf(b Boot) []byte {
	var text strings.Builder
	for _, server := range b.DNS {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	return []byte(text.String())
}

// checkArguments refuses what an argument NAME=VALUE cannot carry. Each property is an argument of its own and is read as it is.
func checkArguments(properties map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return propertyError(name, "must be a name without = and zero bytes")
		}
		if strings.Contains(properties[name], "\x00") {
			return propertyError(name, "must have a value without zero bytes")
		}
	}
	return nil
}
