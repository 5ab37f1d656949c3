package appguard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// RunCanary is the canary: it tries what is denied to it, says on standard output what was refused, and returns the exit code of its process, which
// SIGKILL may forestall.
func RunCanary() int {
	runtime.LockOSThread() // uids are a thread's
	if err := enterAndTry(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// canaryProcs is the descriptor by which the canary's process gets the file cgroup.procs of its cgroup.
const canaryProcs = 3

// enterAndTry becomes a process of the canary's phone, and tries what is denied there.
func enterAndTry() error {
	procs := os.NewFile(canaryProcs, "cgroup.procs")
	if procs == nil {
		return errors.New("the canary was not given its cgroup")
	}
	_, err := procs.WriteString("0") // the writer
	if err := errors.Join(err, procs.Close()); err != nil {
		return fmt.Errorf("enter the canary's cgroup: %w", err)
	}
	return tryAll()
}

func tryAll() error {
	installed, err := tryInstalls()
	if err != nil {
		return err
	}
	if !installed {
		fmt.Println(saidInstall)
	}
	connected, err := tryConnects()
	if err != nil {
		return err
	}
	if !connected {
		fmt.Println(saidNetwork)
	}
	fmt.Println(saidAll)
	err = setUids(canaryDenied, canaryDenied, canaryDenied)
	if errors.Is(err, unix.EPERM) {
		fmt.Println(saidLaunch)
		return nil
	}
	return err
}

// tryInstalls moves two directories to where packages are installed: one that it may, and one that it may not.
func tryInstalls() (denied bool, err error) {
	own, err := ownFileSystem()
	if err != nil {
		return false, fmt.Errorf("make a file system of the canary's own: %w", err)
	}
	defer own.Close()
	dir := fmt.Sprintf("/proc/self/fd/%d", own.Fd())
	place := filepath.Join(dir, "app", "~~canary")
	if err := os.MkdirAll(place, 0o700); err != nil {
		return false, err
	}
	for _, name := range []string{canaryGood, canaryBad} {
		from := filepath.Join(dir, name)
		if err := os.Mkdir(from, 0o700); err != nil {
			return false, err
		}
		err := os.Rename(from, filepath.Join(place, name+"-1"))
		if name == canaryBad && errors.Is(err, unix.EPERM) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// ownFileSystem returns the root of a file system in memory that is mounted nowhere, and goes when it is closed: packages are where the root of a file
// system has them.
func ownFileSystem() (root *os.File, err error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "size", "64k"), unix.FsconfigCreate(fs)); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}

// tryConnects asks for a way out as two apps: one that has a network, and one that has none. That the first may find no route does not matter.
func tryConnects() (connected bool, err error) {
	for _, uid := range []int{canaryAllowed, canaryOffline} {
		if err := setUids(uid, 0, 0); err != nil {
			return false, fmt.Errorf("become uid %d, which is allowed: %w", uid, err)
		}
		err := connect()
		refused := errors.Is(err, unix.EPERM)
		if refused && uid == canaryAllowed {
			return false, fmt.Errorf("connect as uid %d, which is allowed: %w", uid, err)
		}
		if refused {
			return false, setUids(0, 0, 0)
		}
	}
	return true, setUids(0, 0, 0)
}

// connect says where a UDP socket sends to. Nothing is sent.
func connect() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
}

// setUids changes the real, effective and saved uid of this thread alone.
func setUids(real, effective, saved int) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(real), uintptr(effective), uintptr(saved)); errno != 0 {
		return errno
	}
	return nil
}
