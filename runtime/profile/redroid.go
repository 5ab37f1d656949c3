package profile

import (
	"strconv"
	"strings"
	"unicode"

	"github.com/phonehost/phonehost/runtime/seccomp"
)

// redroid is for unmodified images of remote-android's redroid, Android 8.1 to 16.
//
// Its init reads its arguments as a kernel's command line: androidboot.NAME becomes ro.boot.NAME, and ro.NAME overrides the image's
// own. It has no Wayland client: it draws into its own memory and shows its screen by adb (scrcpy). Its patches make it go on where
// BPF and iptables fail, so it gets no bpf(2) at all.
func redroid() *Profile {
	p := androidBase("redroid")
	p.Args = redroidArgs
	p.CheckProperties = func(properties map[string]string) error { return checkProperties(properties, wrongArgument) }
	p.Seccomp = seccomp.GuestOptions{Android: true}
	// init makes /ipc for sockets, and could not in a read-only root.
	p.Tmpfs = []Tmpfs{{Path: "/ipc", Mode: 0o777, Bytes: 1 << 20, Files: 1024}}
	return p
}

// redroidSysBoot is redroid with CAP_SYS_BOOT, for images whose init does not boot without it. The exit then tells a reboot from a
// power-off, and init does not listen to SIGTERM. The redroid images 10.0.0_r47 and 12.0.0_r32 ignore sys.powerctl: they can only be
// killed under this profile.
func redroidSysBoot() *Profile {
	p := redroid()
	p.Name = "redroid-sysboot"
	p.Capabilities = append([]string{"CAP_SYS_BOOT"}, p.Capabilities...)
	p.Shutdown = Shutdown{Args: []string{"/system/bin/setprop", "sys.powerctl", "shutdown"}}
	p.Ending, p.NeedsBootReason = pidNamespaceEnding, nil
	return p
}

// redroidArgs are the arguments of the published images' entry point, and what the phone's spec says.
func redroidArgs(b Boot) []string {
	number := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	base := []property{
		{"androidboot.hardware", "redroid"},
		{"androidboot.serialno", b.ID},
		{"androidboot.redroid_width", number(b.Width)},
		{"androidboot.redroid_height", number(b.Height)},
		{"androidboot.redroid_dpi", number(b.DPI)},
		{"androidboot.redroid_fps", number(b.FPS)},
		// There is no /dev/ashmem, which left the kernel in 5.18.
		{"androidboot.use_memfd", "1"},
	}
	if b.RenderNode == "" {
		base = append(base, property{"androidboot.redroid_gpu_mode", "guest"})
	} else {
		base = append(base, property{"androidboot.redroid_gpu_mode", "host"}, property{"androidboot.redroid_gpu_node", b.RenderNode})
	}
	if len(b.DNS) > 0 {
		base = append(base, property{"androidboot.redroid_net_ndns", strconv.Itoa(len(b.DNS))})
		for i, server := range b.DNS {
			base = append(base, property{"androidboot.redroid_net_dns" + strconv.Itoa(i+1), server})
		}
	}
	args := []string{"/init", "qemu=1"}
	for _, p := range join(append(base, logProperties...), b.Properties) {
		args = append(args, p.name+"="+p.value)
	}
	return args
}

// wrongArgument says why a property cannot be an argument of redroid's init, which joins its arguments by spaces and splits them at
// spaces again, with quotation marks around what has spaces (fs_mgr, ImportKernelCmdlineFromString).
func wrongArgument(name, value string) string {
	switch {
	case !strings.HasPrefix(name, "ro.") && !strings.HasPrefix(name, "androidboot."):
		return "is not taken by redroid's init, which takes ro.* and androidboot.* (for ro.boot.*) only"
	case strings.ContainsFunc(value, unicode.IsSpace) || strings.Contains(value, `"`):
		return "must have a value without spaces and quotation marks: redroid's init splits its arguments there"
	}
	return ""
}
