package volume

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlPointer makes an ioctl whose argument points to something without pointers of its own.
func ioctlPointer[T any](f *os.File, request uintptr, argument *T) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(argument)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return errno
	}
	return nil
}
