package initd

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// termEvent is the eventfd that the handler of SIGTERM writes to, in assembly.
var termEvent int32

// termHandlers returns the addresses of the handler of SIGTERM and of the code that it returns to, 0 where the kernel has that.
func termHandlers() (handler, restorer uintptr)

// openTerm installs the handler of SIGTERM, in place of Go's, and returns a channel that receives when SIGTERM came from outside the pid
// namespace. It is called once.
func openTerm(out *output) (<-chan struct{}, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	termEvent = int32(fd)
	event := os.NewFile(uintptr(termEvent), "eventfd")
	if err := installTerm(); err != nil {
		return nil, err
	}
	term := make(chan struct{}, 1)
	go func() {
		for {
			if _, err := event.Read(make([]byte, 8)); err != nil {
				out.printf("wait for SIGTERM: %v", err)
				return
			}
			select {
			case term <- struct{}{}:
			default:
			}
		}
	}()
	return term, nil
}

// installTerm makes the handler the process's action for SIGTERM.
func installTerm() error {
	const saSigInfo, saOnStack, saRestart, saRestorer = 0x4, 0x08000000, 0x10000000, 0x04000000
	action := struct { // struct kernel_sigaction of amd64 and arm64
		handler, flags, restorer uintptr
		mask                     uint64
	}{flags: saSigInfo | saOnStack | saRestart}
	action.handler, action.restorer = termHandlers()
	if action.restorer != 0 {
		action.flags |= saRestorer
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGTERM), uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
	if errno != 0 {
		return fmt.Errorf("handle SIGTERM: %w", errno)
	}
	return nil
}
