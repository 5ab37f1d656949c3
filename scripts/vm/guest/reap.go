package guest

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// reap is the rest of process 1's life in a kernel machine: it starts the program that serves, and takes the exit status of
// every process whose parent has gone. The signals of busybox's poweroff and reboot are obeyed. It ends with the program.
func reap(args []string) error {
	child, err := os.StartProcess(args[0], args, &os.ProcAttr{Dir: "/", Env: environment, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return fmt.Errorf("start the control program: %w", err)
	}
	power := make(chan os.Signal, 1)
	signal.Notify(power, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	go func() { // ends with the computer
		action := unix.LINUX_REBOOT_CMD_POWER_OFF
		if <-power == unix.SIGTERM {
			action = unix.LINUX_REBOOT_CMD_RESTART
		}
		unix.Sync()
		unix.Reboot(action)
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for processes: %w", err)
		}
		if pid == child.Pid {
			return fmt.Errorf("the control program ended: exit code %d, signal %d", status.ExitStatus(), status.Signal())
		}
	}
}
