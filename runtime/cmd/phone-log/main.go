// Command phone-log writes what one container prints to a rotated, rate-limited log. A containerd shim starts it for a task whose
// output is binary:///path/to/phone-log?--path=FILE, with the container's stdout and stderr on descriptors 3 and 4 and a pipe on
// descriptor 5 that it closes when it reads.
//
// It ends when both streams have ended. On SIGTERM, which the shim sends when the container is gone, it keeps reading what is still
// in the pipes for at most a second.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/logger"
)

var version = "dev" // set by the linker

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		fmt.Println(version)
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "phone-log:", err)
		os.Exit(1)
	}
}

func run() error {
	var c logger.Config
	flag.StringVar(&c.Path, "path", "", "log file to write")
	flag.Int64Var(&c.MaxBytes, "max-bytes", 0, "size of each of the two files kept (default 8 MiB)")
	flag.Int64Var(&c.Rate, "rate", 0, "bytes per second in the long run (default 512 KiB)")
	flag.Int64Var(&c.Burst, "burst", 0, "bytes at once after a silence (default 4 MiB)")
	flag.Parse()
	if c.Path == "" {
		return errors.New("-path is needed")
	}
	debug.SetGCPercent(50) // one of these runs for each container: small is better than quick
	stdout, err := stream(3, "stdout")
	if err != nil {
		return err
	}
	stderr, err := stream(4, "stderr")
	if err != nil {
		return err
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	go func() { // ends with the process
		<-terminated
		limit := time.Now().Add(time.Second)
		stdout.SetReadDeadline(limit)
		stderr.SetReadDeadline(limit)
	}()
	if err := unix.Close(5); err != nil {
		return fmt.Errorf("close the ready pipe: %w", err)
	}
	err = logger.Copy(c, stdout, stderr)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// stream is an inherited pipe, made non-blocking so that its reads can have a deadline.
func stream(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("descriptor %d for %s: %w", fd, name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
