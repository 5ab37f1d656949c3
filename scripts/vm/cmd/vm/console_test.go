package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what a machine that is there does; machines of others may keep it from being there.
const patience = 2 * time.Minute

// console is a terminal, and a program that a person works with at it. What it waits for ends with the test.
type console struct {
	t      *testing.T
	master *os.File
	slave  *os.File
	output chan string // what appears
	seen   string      // of that, what no expect has found
	there  bool        // the machine is there
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the program has
	hungUp bool
}

// openConsole makes a terminal of a size.
func openConsole(t *testing.T, rows, columns uint16) *console {
	t.Helper()
	c := &console{t: t, output: make(chan string), ended: make(chan struct{})}
	var err error
	if c.master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.master.Close() })
	var number int
	c.control(func(fd int) error {
		if number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
			return err
		}
		return unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	})
	if c.slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.slave.Close() })
	c.resize(rows, columns)
	go func() { // ends with the master
		defer close(c.output)
		buf := make([]byte, 4096)
		for {
			n, err := c.master.Read(buf)
			if n > 0 {
				select {
				case c.output <- string(buf[:n]):
				case <-t.Context().Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return c
}

// control calls do with the master's descriptor.
func (c *console) control(do func(fd int) error) {
	c.t.Helper()
	raw, err := c.master.SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil || failed != nil {
		c.t.Fatal(err, failed)
	}
}

func (c *console) resize(rows, columns uint16) {
	c.t.Helper()
	c.control(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
}

// modes are how the terminal treats what is typed and written.
func (c *console) modes() (modes unix.Termios) {
	c.t.Helper()
	c.control(func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			modes = *t
		}
		return err
	})
	return modes
}

// start starts the program with the terminal as its own.
func (c *console) start(name string, args ...string) {
	c.t.Helper()
	c.cmd = exec.CommandContext(c.t.Context(), name, args...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = c.slave, c.slave, c.slave
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		c.cmd.Wait()
	}()
	c.t.Cleanup(func() {
		c.cmd.Process.Kill()
		<-c.ended
	})
}

// write types.
func (c *console) write(text string) {
	c.t.Helper()
	if _, err := c.master.WriteString(text); err != nil {
		c.t.Fatal(err)
	}
}

// enter types a line and waits for a text.
func (c *console) enter(line, want string) {
	c.t.Helper()
	c.write(line + "\r")
	c.expect(want)
}

// expect waits until a text has appeared after the last one that was expected.
func (c *console) expect(want string) {
	c.t.Helper()
	late := c.limit()
	for {
		if _, rest, ok := strings.Cut(c.seen, want); ok {
			c.seen, c.there = rest, true
			return
		}
		select {
		case text, ok := <-c.output:
			if !ok {
				c.t.Fatalf("the terminal ended without %q: %q", want, c.seen)
			}
			c.seen += text
		case <-c.ended:
			c.t.Fatalf("the program ended without %q: %v: %q", want, c.cmd.ProcessState, c.seen)
		case <-late:
			c.t.Fatalf("%q did not appear: %q", want, c.seen)
		}
	}
}

// limit tells when patience is over, which does not begin before the machine is there.
func (c *console) limit() <-chan time.Time {
	if !c.there {
		return nil
	}
	return time.After(patience)
}

// wait waits for the program's end and returns its exit code.
func (c *console) wait() int {
	c.t.Helper()
	late := c.limit()
	for {
		select {
		case <-c.ended:
			return c.cmd.ProcessState.ExitCode()
		case text, ok := <-c.output: // nobody waits for a terminal that is full
			if !ok {
				c.output = nil
			}
			c.seen += text
		case <-late:
			c.t.Fatalf("the program did not end: %q", c.seen)
		}
	}
}

func (c *console) signal(s syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// hangUp closes the terminal, as a person who closes its window.
func (c *console) hangUp() {
	c.t.Helper()
	c.hungUp = true
	if err := c.master.Close(); err != nil {
		c.t.Fatal(err)
	}
}

// serialLog finds a machine's directory in QEMU's arguments.
var serialLog = regexp.MustCompile(`path=([^\x00,]*)/serial\.log`)

// machine waits for the program's QEMU, a child of its, and returns a descriptor of the process and the machine's directory.
func (c *console) machine() (pidfd int, dir string) {
	c.t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		for _, pid := range children(c.t, c.cmd.Process.Pid) {
			line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			m := serialLog.FindSubmatch(line)
			if err != nil || m == nil {
				continue
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				c.t.Fatal(err)
			}
			c.t.Cleanup(func() { unix.Close(fd) })
			c.there = true
			return fd, string(m[1])
		}
		select {
		case <-again.C:
		case text := <-c.output:
			c.seen += text
		case <-c.ended:
			c.t.Fatalf("the program ended without a machine: %q", c.seen)
		}
	}
}

// children are the processes that a process has started.
func children(t *testing.T, parent int) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may hold anything; the state and the parent follow.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, pid)
		}
	}
	return found
}
