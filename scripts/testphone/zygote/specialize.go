package zygote

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Specialize is app_process: it gives up root for the identity that its arguments say and executes the app. It returns only when the
// arguments are wrong; when a step fails, the process ends by SIGABRT.
func Specialize(args []string) error {
	r, err := parse(args)
	if err != nil {
		return fmt.Errorf("app_process: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("app_process: %w", err)
	}
	env := append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, AppEnv+"=") }), AppEnv+"="+r.Name)
	// From here on everything happens on one thread, whose credentials execve takes over.
	runtime.LockOSThread()
	for _, step := range []struct {
		name string
		call func() error
	}{
		{"setpgid", func() error { return unix.Setpgid(0, 0) }},
		{fmt.Sprintf("setgroups %v", r.Groups), func() error { return setGroups(r.Groups) }},
		{fmt.Sprintf("setresgid %d", r.GID), func() error { return setAll(unix.SYS_SETRESGID, r.GID) }},
		{fmt.Sprintf("setresuid %d", r.UID), func() error { return setAll(unix.SYS_SETRESUID, r.UID) }},
		{"run " + program, func() error { return unix.Exec(program, []string{r.Name}, env) }},
	} {
		if err := step.call(); err != nil {
			abort(fmt.Errorf("%s: %w", step.name, err))
		}
	}
	panic("unreachable")
}

// setAll calls setresuid or setresgid for this thread only; the functions of package syscall call it on every thread.
func setAll(trap uintptr, id int) error {
	if _, _, errno := unix.RawSyscall(trap, uintptr(id), uintptr(id), uintptr(id)); errno != 0 {
		return errno
	}
	return nil
}

// setGroups calls setgroups for this thread only.
func setGroups(groups []int) error {
	list := make([]uint32, len(groups)+1)
	for i, g := range groups {
		list[i] = uint32(g)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0); errno != 0 {
		return errno
	}
	return nil
}

// abort tells the reason over the link and ends the process as Android's fail_fn does, by SIGABRT with its default action, which Go's
// runtime has taken for itself.
func abort(reason error) {
	if b, err := json.Marshal(map[string]string{"error": reason.Error()}); err == nil {
		_, _ = unix.Write(Link, append(b, '\n'))
	}
	fmt.Fprintf(os.Stderr, "app_process: abort: %v\n", reason)
	action := struct { // struct kernel_sigaction with SIG_DFL
		handler, flags, restorer uintptr
		mask                     uint64
	}{}
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGABRT), uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
	_ = unix.Kill(os.Getpid(), unix.SIGABRT)
	select {} // the signal ends the process
}
