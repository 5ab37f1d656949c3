package appguard

import (
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// preemptible tells whether code of the kernel can be preempted, and how that is known. What cannot be known counts as preemptible.
func preemptible() (full bool, how string) {
	text, err := os.ReadFile("/proc/version")
	if err != nil {
		return true, err.Error()
	}
	return preemptibleBy(string(text), schedPreempt)
}

// preemptibleBy judges by the text of /proc/version, whose words are those of UTS_VERSION (scripts/mkcompile_h): a kernel that was built to choose when
// it boots says PREEMPT_DYNAMIC, and chose says what debugfs has in sched/preempt.
func preemptibleBy(version string, chose func() (string, error)) (full bool, how string) {
	words := strings.FieldsFunc(version, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' })
	for _, built := range []string{"PREEMPT_RT", "PREEMPT", "PREEMPT_LAZY"} {
		if slices.Contains(words, built) {
			return true, "built with " + built
		}
	}
	if !slices.Contains(words, "PREEMPT_DYNAMIC") {
		return false, "built without PREEMPT"
	}
	text, err := chose()
	if err != nil {
		return true, "how it was booted cannot be read: " + err.Error()
	}
	chosen := regexp.MustCompile(`\(([a-z]+)\)`).FindStringSubmatch(text)
	if chosen == nil {
		return true, "sched/preempt is " + strings.TrimSpace(text)
	}
	return chosen[1] != "none" && chosen[1] != "voluntary", "preempt=" + chosen[1]
}

// schedPreempt reads sched/preempt of a debugfs that nobody else sees.
func schedPreempt() (string, error) {
	fs, err := unix.Fsopen("debugfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return "", err
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(mount)
	fd, err := unix.Openat(mount, "sched/preempt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "sched/preempt")
	defer f.Close()
	text, err := io.ReadAll(f)
	return string(text), err
}
