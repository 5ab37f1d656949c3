package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"golang.org/x/sys/unix"
)

// roleEnv makes this test binary a second process, which plays that role of roles in namespaces of its own.
const roleEnv = "PHONEHOST_TEST_GUEST_ROLE"

// roles are what a second process does. Its lines of output are what the test sees.
var roles = map[string]func() error{
	"mount": mountRole, "furnish": furnishRole, "network": networkRole, "reap": reapRole, "reaped child": reapedRole,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(roleEnv); name != "" {
		if err := roles[name](); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// player is a process that plays a role. Whoever starts it reads what it says.
type player struct {
	*exec.Cmd
	t     *testing.T
	input io.WriteCloser
	lines *bufio.Scanner
}

// play starts a role in new namespaces. It ends with the test.
func play(t *testing.T, role string, namespaces uintptr) *player {
	t.Helper()
	testenv.Root(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &player{t: t, Cmd: exec.CommandContext(t.Context(), exe)}
	p.Env = append(os.Environ(), roleEnv+"="+role, "TMPDIR="+t.TempDir())
	p.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	if p.input, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stderr = p.Stdout
	p.lines = bufio.NewScanner(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
	})
	return p
}

// expect reads a line.
func (p *player) expect(want string) {
	p.t.Helper()
	if !p.lines.Scan() || p.lines.Text() != want {
		said := p.lines.Text()
		p.t.Fatalf("the role said %q, want %q; then\n%s", said, want, strings.Join(p.rest(), "\n"))
	}
}

// rest reads to the end, and waits for it.
func (p *player) rest() (said []string) {
	for p.lines.Scan() {
		said = append(said, p.lines.Text())
	}
	p.Wait()
	return said
}

// played plays a role to its end and returns what it said.
func played(t *testing.T, role string, namespaces uintptr) []string {
	t.Helper()
	p := play(t, role, namespaces)
	said := p.rest()
	if !p.ProcessState.Success() {
		t.Fatalf("%v\n%s", p.ProcessState, strings.Join(said, "\n"))
	}
	return said
}

// private keeps what a role mounts from the host.
func private() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }

// connected returns a client of a handler that serves in this process.
func connected(t *testing.T) *control.Client {
	t.Helper()
	host, guest := net.Pipe()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	h := &handler{log: log, kind: kindKernel}
	var serving sync.WaitGroup
	serving.Go(func() { control.Serve(t.Context(), guest, control.Guest{Kind: h.kind}, h, log) })
	c, err := control.NewClient(t.Context(), host, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		serving.Wait()
		h.leftovers.Wait()
	})
	return c
}

// ends asserts that a process ends soon.
func ends(t *testing.T, process *os.File, what string) {
	t.Helper()
	const soon = 10 * time.Second
	for deadline := time.Now().Add(soon); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process.Fd()), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) && time.Now().Before(deadline) {
			continue
		}
		if n != 1 || err != nil {
			t.Errorf("%s lives on: %v", what, err)
		}
		return
	}
}

// watch opens a process by its number, as a program printed it.
func watch(t *testing.T, pid string) *os.File {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(pid, &n); err != nil {
		t.Fatalf("%q is no number of a process", pid)
	}
	fd, err := unix.PidfdOpen(n, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "process")
	t.Cleanup(func() { f.Close() })
	return f
}

// lines is a writer that hands on the lines of what is written.
type lines struct {
	rest []byte
	to   chan string
}

func newLines() *lines { return &lines{to: make(chan string, 100)} }

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := strings.Cut(string(l.rest), "\n")
		if !whole {
			return len(p), nil
		}
		l.to <- strings.TrimSuffix(line, "\r")
		l.rest = []byte(rest)
	}
}

// bounded returns the test's context with a deadline that no test comes near.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
