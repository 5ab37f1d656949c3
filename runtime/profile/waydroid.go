package profile

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/phonehost/phonehost/runtime/seccomp"
)

// waydroid is for Waydroid's system.img and vendor.img, imported as an image (package waydroidimage).
//
// It has what Waydroid gives its one container under LXC, and less. Its properties come by the file /vendor/waydroid.prop. Its
// composer is a Wayland client of uid 1000, as is everything of that property file's host user. Its bpfloader must succeed for
// Android 13 to boot, so it has bpf(2) for objects of its own.
func waydroid() *Profile {
	p := androidBase("waydroid")
	p.Args = func(Boot) []string { return []string{"/init"} }
	p.CheckProperties = func(properties map[string]string) error { return checkProperties(properties, wrongLine) }
	p.Seccomp = seccomp.GuestOptions{Android: true, BPF: true}
	p.Tmpfs = []Tmpfs{
		{Path: "/tmp", Mode: 0o1777, Bytes: 64 << 20, Files: 16384},
		{Path: "/var", Mode: 0o755, Bytes: 16 << 20, Files: 4096},
		// Apps, whose uids are others, do not pass to the display's socket below.
		{Path: "/run", Mode: 0o750, UID: androidSystem, GID: androidSystem, Bytes: 16 << 20, Files: 4096},
	}
	p.Files = []File{{Path: "/vendor/waydroid.prop", Content: waydroidProperties}}
	p.WaylandDir = waydroidRuntimeDir
	return p
}

const (
	// androidSystem is Android's user system.
	androidSystem = 1000
	// waydroidRuntimeDir is the composer's XDG_RUNTIME_DIR.
	waydroidRuntimeDir = "/run/xdg"
)

// waydroidProperties is Waydroid's property file: what its own tools write (tools/helpers/lxc.py, make_base_props; images.py,
// make_prop) for a mainline kernel without a host Android.
func waydroidProperties(b Boot) []byte {
	system := strconv.Itoa(androidSystem)
	base := []property{
		// There is no /dev/ashmem.
		{"sys.use_memfd", "true"},
		{"ro.adb.secure", "1"},
		{"ro.debuggable", "0"},
		{"ro.vndk.lite", "true"},
		{"ro.opengles.version", "196610"},
		{"ro.hardware.camera", "v4l2"},
		{"debug.stagefright.ccodec", "0"},
	}
	if b.RenderNode == "" {
		base = append(base, property{"ro.hardware.gralloc", "default"}, property{"ro.hardware.egl", "swiftshader"})
	} else {
		base = append(base, property{"ro.hardware.gralloc", "gbm"}, property{"ro.hardware.egl", "mesa"}, property{"gralloc.gbm.device", b.RenderNode})
	}
	base = append(base,
		// Images come from the control plane.
		property{"waydroid.updater.disabled", "true"},
		property{"waydroid.stub_sensors_hal", "1"},
		// The composer and the audio HAL run as this user.
		property{"waydroid.host.uid", system},
		property{"waydroid.host.gid", system},
		property{"waydroid.xdg_runtime_dir", waydroidRuntimeDir},
		property{"waydroid.wayland_display", "wayland-0"},
		property{"waydroid.pulse_runtime_path", waydroidRuntimeDir + "/pulse"},
		// The whole screen is shown from the start, in one window, whose size the display says.
		property{"waydroid.background_start", "false"},
		property{"waydroid.active_apps", "Waydroid"},
		property{"ro.sf.lcd_density", strconv.FormatUint(uint64(b.DPI), 10)},
		property{"ro.serialno", b.ID},
	)
	var file bytes.Buffer
	for _, p := range join(append(base, logProperties...), b.Properties) {
		fmt.Fprintf(&file, "%s=%s\n", p.name, p.value)
	}
	return file.Bytes()
}

// wrongLine says why a property cannot be a line of a property file, whose values are trimmed.
func wrongLine(name, value string) string {
	if strings.TrimSpace(value) != value {
		return "must have a value that neither begins nor ends with a space"
	}
	return ""
}
