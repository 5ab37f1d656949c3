package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// greeting is that of QEMU 7.2.
const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`

// pair returns two ends of a Unix connection, which end with the test.
func pair(t testing.TB) (one, other *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends []*net.UnixConn
	for _, fd := range fds {
		file := os.NewFile(uintptr(fd), "qmp")
		conn, err := net.FileConn(file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		end, ok := conn.(*net.UnixConn)
		if !ok {
			t.Fatalf("an end of type %T", conn)
		}
		ends = append(ends, end)
	}
	return ends[0], ends[1]
}

// emulator is QEMU's end, of which a test says what it says.
type emulator struct {
	t     *testing.T
	conn  *net.UnixConn
	lines *bufio.Reader
}

func newEmulator(t *testing.T, conn *net.UnixConn) *emulator {
	return &emulator{t, conn, bufio.NewReader(conn)}
}

// say writes lines.
func (e *emulator) say(lines ...string) {
	e.t.Helper()
	if _, err := io.WriteString(e.conn, strings.Join(lines, "\r\n")+"\r\n"); err != nil {
		e.t.Error(err)
	}
}

// command is a line of the client's.
type command struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        uint64          `json:"id"`
}

// hear returns the client's next command.
func (e *emulator) hear() (c command) {
	e.t.Helper()
	line, err := e.lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &c)
	}
	if err != nil {
		e.t.Errorf("the client's line %q: %v", line, err)
	}
	return c
}

// answer tells what a command returned.
func (e *emulator) answer(c command, result string) {
	e.t.Helper()
	e.say(fmt.Sprintf(`{"return": %s, "id": %d}`, result, c.ID))
}

// events keeps the events that came.
type events struct {
	mu  sync.Mutex
	all []Event
}

func (e *events) take(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, event)
}

func (e *events) names() (names []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, event := range e.all {
		names = append(names, event.Name+" "+string(event.Data))
	}
	return names
}

// connect returns a client whose greeting is over, and its other end.
func connect(t *testing.T, take func(Event)) (*Client, *emulator) {
	t.Helper()
	ours, theirs := pair(t)
	e := newEmulator(t, theirs)
	var beginning sync.WaitGroup
	beginning.Go(func() {
		e.say(greeting)
		e.answer(e.hear(), "{}")
	})
	c, err := New(t.Context(), ours, take)
	beginning.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, e
}

func ignore(Event) {}
