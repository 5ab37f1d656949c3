package appguard_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tries are steps of one process, and what each has to meet.
type tries struct{ steps, want []string }

// stillOtherInstalls are ways to a package's directory that need more of the kernel than its name: in dir there is app/~~r.
func stillOtherInstalls(t *testing.T, dir string) []tries {
	t.Helper()
	random := filepath.Join(dir, "app/~~r")
	for _, d := range []string{"full/com.bad.app-1", "app/~~e", "app/x/com.bad.app-1", "shown", "work", "whole", "white", "white2"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	at := func(step string) string { return strings.ReplaceAll(step, "DIR", dir) }
	return []tries{
		{[]string{at("whiteout DIR/white DIR/app/~~r/com.bad.app-20")}, []string{"EPERM"}},
		{[]string{at("whiteout DIR/white2 DIR/app/~~r/com.good-20")}, []string{"done"}},
		// What is full comes in no way under a random name, nor does what is in a directory of another name get one.
		{[]string{at("exchange DIR/full DIR/app/~~e")}, []string{"EPERM"}},
		{[]string{at("exchange DIR/app/~~e DIR/full")}, []string{"EPERM"}},
		{[]string{at("rename DIR/app/x DIR/app/~~x")}, []string{"EPERM"}},
		// By a path from there, by a link to there, and by no path at all.
		{[]string{"chdir " + random, "mkdir com.bad.app-21", "rename " + dir + "/full ./com.bad.app-22", "mkdir com.good-21"}, []string{"done", "EPERM", "EPERM", "done"}},
		{[]string{at("symlink app DIR/link"), at("mkdir DIR/link/~~r/com.bad.app-23"), at("mkdir DIR/link/~~r/com.good-23")}, []string{"done", "EPERM", "done"}},
		{[]string{"handle " + random + " com.bad.app-24", "handle " + random + " com.good-24"}, []string{"EPERM", "done"}},
		// By an overlay, whose upper directory is that of apps, or that in which it is.
		{[]string{at("overlay DIR/app DIR/work DIR/shown"), at("mkdir DIR/shown/~~r/com.bad.app-25"), at("mkdir DIR/shown/~~r/com.good-25")}, []string{"done", "EPERM", "done"}},
		{[]string{at("overlay DIR/app/~~r DIR/work DIR/shown"), at("mkdir DIR/shown/com.bad.app-26"), at("mkdir DIR/shown/com.good-26")}, []string{"done", "EPERM", "done"}},
		{[]string{at("overlay DIR/whole DIR/work DIR/shown"), at("mkdir DIR/shown/app"), at("mkdir DIR/shown/app/~~r"), at("mkdir DIR/shown/app/~~r/com.bad.app-27"), at("mkdir DIR/shown/app/~~r/com.good-27")}, []string{"done", "done", "done", "EPERM", "done"}},
		// By the kernel's own threads.
		{[]string{at("uring mkdir DIR/app/~~r/com.bad.app-28"), at("uring mkdir DIR/app/~~r/com.good-28")}, []string{"EPERM", "done"}},
		{[]string{at("uring rename DIR/full DIR/app/~~r/com.bad.app-29")}, []string{"EPERM"}},
	}
}

// tmpfileStep makes a file that has no name, in a directory, and gives it one.
func tmpfileStep(args []string) error {
	fd, err := unix.Open(args[0], unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, name(args[1]), unix.AT_SYMLINK_FOLLOW)
}

// handleStep makes a directory in one that is opened by its handle, in place of a path.
func handleStep(args []string) error {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, args[0], 0)
	if err != nil {
		return err
	}
	mount, err := unix.Open(args[0], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	fd, err := unix.OpenByHandleAt(mount, handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Mkdirat(fd, args[1], 0o755)
}

// apart goes into a mount namespace of this thread's own.
func apart() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

// coverStep shows an empty file system in a place.
func coverStep(args []string) error {
	if err := apart(); err != nil {
		return err
	}
	return unix.Mount("tmpfs", args[0], "tmpfs", 0, "size=1m")
}

// overlayStep shows a directory elsewhere by an overlay, which makes there what is made in it: "UPPER WORK TARGET".
func overlayStep(args []string) error {
	lower := filepath.Join(filepath.Dir(args[1]), "lower")
	if err := os.MkdirAll(lower, 0o755); err != nil {
		return err
	}
	if err := apart(); err != nil {
		return err
	}
	return unix.Mount("overlay", args[2], "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, args[0], args[1]))
}

// io_uring's own numbers, of include/uapi/linux/io_uring.h: the kernel does what is asked in threads of its own when IOSQE_ASYNC is set.
const (
	uringRenameat = 35
	uringMkdirat  = 37
	uringAsync    = 1 << 4
	uringEntry    = 64
	uringRings    = 0
	uringEntries  = 0x10000000
	uringEvents   = 1
)

// uringParams is struct io_uring_params.
type uringParams struct {
	entries, completions, flags, cpu, idle, features, workers uint32
	_                                                         [3]uint32
	submission                                                struct{ head, tail, mask, entries, flags, dropped, array, _, _, _ uint32 }
	completion                                                struct{ head, tail, mask, entries, overflow, events, flags, _, _, _ uint32 }
}

// uringStep makes or moves a directory by io_uring: "mkdir PATH", "rename FROM TO".
func uringStep(args []string) error {
	var params uringParams
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	fd := int(ring)
	defer unix.Close(fd)
	rings, err := unix.Mmap(fd, uringRings, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(rings)
	entry, err := unix.Mmap(fd, uringEntries, uringEntry, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(entry)
	path := func(p string) *byte { b, _ := unix.BytePtrFromString(p); return b }
	first := path(args[1])
	kept := []*byte{first}
	put := binary.NativeEndian
	entry[1] = uringAsync
	put.PutUint32(entry[4:], 0xffffff9c) // AT_FDCWD
	put.PutUint64(entry[16:], uint64(uintptr(unsafe.Pointer(first))))
	switch args[0] {
	case "mkdir":
		entry[0] = uringMkdirat
		put.PutUint32(entry[24:], 0o755)
	default:
		second := path(args[2])
		kept = append(kept, second)
		entry[0] = uringRenameat
		put.PutUint64(entry[8:], uint64(uintptr(unsafe.Pointer(second))))
		put.PutUint32(entry[24:], 0xffffff9c)
	}
	put.PutUint32(rings[params.submission.array:], 0)
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&rings[params.submission.tail])), 1)
	if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, uringEvents, 0, 0); errno != 0 {
		return fmt.Errorf("io_uring_enter: %w", errno)
	}
	defer func() { _ = kept }() // the kernel reads them
	if atomic.LoadUint32((*uint32)(unsafe.Pointer(&rings[params.completion.tail]))) != 1 {
		return errors.New("io_uring has done nothing")
	}
	if result := int32(put.Uint32(rings[params.completion.events+8:])); result < 0 {
		return syscall.Errno(-result)
	}
	return nil
}
