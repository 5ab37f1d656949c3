package profile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// What redroid and Waydroid have in common, because both run Android's own init, zygote and system server.

// packageList is where Android's package manager keeps its list.
const packageList = "/data/system/packages.list"

var bootCompletedArgs = []string{"getprop", "sys.boot_completed"}

func bootCompleted(stdout string) bool { return strings.TrimSpace(stdout) == "1" }

// androidEnv is for programs that are run in the guest. Android's init makes an environment of its own.
var androidEnv = []string{
	"PATH=/product/bin:/apex/com.android.runtime/bin:/apex/com.android.art/bin:/system_ext/bin:/system/bin:/system/xbin:/odm/bin:/vendor/bin",
	"ANDROID_ROOT=/system", "ANDROID_DATA=/data", "ANDROID_STORAGE=/storage", "EXTERNAL_STORAGE=/sdcard",
	"ANDROID_ART_ROOT=/apex/com.android.art", "ANDROID_I18N_ROOT=/apex/com.android.i18n", "ANDROID_TZDATA_ROOT=/apex/com.android.tzdata",
	"HOME=/", "TMPDIR=/data/local/tmp",
}

// androidCapabilities are what Android gets. Each has its reason in runtime/ocispec/testdata/reasons.txt. A service whose .rc file
// names a capability ends at once where init cannot give it, so some are here that the guest can do nothing with.
//
// Of what Waydroid gives under LXC, CAP_MKNOD and CAP_SYS_TIME are missing: init is told that it made its nodes, and whoever sets
// the clock that it is set (package seccomp).
var androidCapabilities = []string{
	"CAP_AUDIT_CONTROL", "CAP_BLOCK_SUSPEND", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
	"CAP_IPC_LOCK", "CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
	"CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_NICE", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE", "CAP_WAKE_ALARM",
}

// androidDevices are beside the plain ones of every guest. There is no uinput or uhid, which make input devices of the whole host, no
// dma_heap, whose memory no limit counts, no loop and no block device.
var androidDevices = []Device{
	{Path: "/dev/fuse", Major: 10, Minor: 229, Mode: 0o666, Access: "rw"},
	{Path: "/dev/tun", Major: 10, Minor: 200, Mode: 0o660, Access: "rw"},
}

// androidReadonly are files that Android's init gives other owners and modes, which procfs would keep for the whole host; what they say
// may be read.
var androidReadonly = []string{"/proc/allocinfo", "/proc/driver", "/proc/mtrr", "/proc/pagetypeinfo", "/proc/slabinfo"}

// procOptions keep apps from seeing each other's processes, as Android mounts /proc; 3009 is its group readproc.
var procOptions = []string{"hidepid=2", "gid=3009"}

// androidBase is a profile with what redroid and Waydroid share.
func androidBase(name string) *Profile {
	return &Profile{
		Name:          name,
		Env:           androidEnv,
		Capabilities:  androidCapabilities,
		Console:       true,
		MaxPIDs:       16384,
		ReadonlyRoot:  true,
		ProcOptions:   procOptions,
		Sysctls:       true,
		DevBytes:      64 << 20,
		DevFiles:      16384,
		ReadonlyPaths: androidReadonly,
		Devices:       androidDevices,
		Binder:        BinderRequired,
		BinderDir:     "/dev/phonehost-binder",

		BootCompletedArgs: bootCompletedArgs,
		BootCompleted:     bootCompleted,
		// init takes SIGTERM for a shutdown where it has no CAP_SYS_BOOT and the sender is outside its pid namespace (init/init.cpp,
		// HandleSigtermSignal).
		Shutdown:        Shutdown{Signal: unix.SIGTERM},
		Ending:          cleanExitEnding,
		NeedsBootReason: cleanExit,

		Shell:           []string{"/system/bin/sh"},
		PackageManager:  []string{"/system/bin/pm"},
		ActivityManager: []string{"/system/bin/am"},
		PackageList:     packageList,
	}
}

// logProperties keep logd from the kernel's log and audit, which are the host's: at a hidden /proc/kmsg it would turn without end.
var logProperties = []property{{"ro.logd.kernel", "false"}, {"ro.logd.auditd", "false"}}

// property is a property and its value.
type property struct{ name, value string }

// join returns the owner's properties and those of base that the owner does not set: base in its order, then the owner's others in
// order of names. Each name comes once, since init keeps the first value of a property ro.* and the last of others.
func join(base []property, owner map[string]string) []property {
	rest := maps.Clone(owner)
	var all []property
	for _, p := range base {
		if value, ok := rest[p.name]; ok {
			p.value = value
			delete(rest, p.name)
		}
		all = append(all, p)
	}
	for _, name := range slices.Sorted(maps.Keys(rest)) {
		all = append(all, property{name, rest[name]})
	}
	return all
}

// propertyName is what init takes for a name (init/util.cpp, IsLegalPropertyName).
var propertyName = regexp.MustCompile(`^[A-Za-z0-9_@:-]+(\.[A-Za-z0-9_@:-]+)*$`)

// maxMutable is the length of the value of a property that is not ro.* (PROP_VALUE_MAX without its zero).
const maxMutable = 91

// checkProperties refuses what Android's init would pass over or misread.
func checkProperties(properties map[string]string, also func(name, value string) string) error {
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if wrong := wrongProperty(name, properties[name]); wrong != "" {
			return propertyError(name, wrong)
		}
		if wrong := also(name, properties[name]); wrong != "" {
			return propertyError(name, wrong)
		}
	}
	return nil
}

func propertyError(name, wrong string) error {
	return fmt.Errorf("property %q %s: %w", name, wrong, errdefs.ErrInvalidArgument)
}

// wrongProperty says what is wrong with a property for any Android, or "".
func wrongProperty(name, value string) string {
	switch {
	case !propertyName.MatchString(name):
		return "must be words of letters, digits, _, @, : and - with single dots between them"
	case strings.HasPrefix(name, "ctl.") || name == "sys.powerctl":
		return "is a command to init, not a property that can be set at its start"
	case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
		return "must have a value that is UTF-8 text without control characters"
	case len(value) > maxMutable && !strings.HasPrefix(name, "ro.") && !strings.HasPrefix(name, "androidboot."):
		return fmt.Sprintf("must have a value of at most %d bytes, as all that are not ro.*", maxMutable)
	}
	return ""
}
