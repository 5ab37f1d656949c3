package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/timestamppb"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// screenTerminal is a terminal of a test: what is written to its far end is read as typed keys, and what is printed on it is kept.
type screenTerminal struct {
	tty *os.File // what a program is given

	master *os.File
	read   sync.WaitGroup

	mu      sync.Mutex
	printed bytes.Buffer
	waiting map[string]chan struct{}
}

func newTerminal(t *testing.T, columns, rows uint16) *screenTerminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &screenTerminal{tty: tty, master: master, waiting: make(map[string]chan struct{})}
	s.resize(t, columns, rows)
	s.read.Go(s.keep)
	t.Cleanup(func() { s.close() })
	return s
}

// keep keeps what is printed until the terminal is closed.
func (s *screenTerminal) keep() {
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		s.mu.Lock()
		s.printed.Write(buf[:n])
		for text, seen := range s.waiting {
			if strings.Contains(s.printed.String(), text) {
				close(seen)
				delete(s.waiting, text)
			}
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// close closes the terminal and returns all that was printed on it.
func (s *screenTerminal) close() string {
	s.tty.Close()
	s.read.Wait()
	s.master.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.printed.String()
}

// until waits until a text has been printed.
func (s *screenTerminal) until(text string) {
	s.mu.Lock()
	seen := make(chan struct{})
	if strings.Contains(s.printed.String(), text) {
		close(seen)
	} else {
		s.waiting[text] = seen
	}
	s.mu.Unlock()
	<-seen
}

func (s *screenTerminal) resize(t *testing.T, columns, rows uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.Fatal(err)
	}
}

func (s *screenTerminal) keys(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(s.master, text); err != nil {
		t.Fatal(err)
	}
}

func (s *screenTerminal) state(t *testing.T) unix.Termios {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *state
}

func TestShellOnATerminal(t *testing.T) {
	agent := withPhone(t)
	screen := newTerminal(t, 132, 43)
	before := screen.state(t)
	ended := make(chan int, 1)
	go func() {
		ended <- Run(context.Background(), Config{
			Args: []string{"--host", "unix://" + agent.socket, "shell", "cp-1"}, Stdin: screen.tty, Stdout: screen.tty, Stderr: screen.tty,
			Getenv: func(name string) string { return map[string]string{"TERM": "vt220"}[name] },
		})
	}()
	screen.until("shell [] 132x43 [TERM=vt220]")
	screen.resize(t, 80, 25)
	// The kernel tells only the terminal's own session; this process is not of it.
	if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	screen.until("now 80x25")
	screen.keys(t, "\x03hello\r") // Ctrl-C is the guest's on a raw terminal
	screen.until("you said \x03hello")
	if state := screen.state(t); state.Lflag&(unix.ECHO|unix.ISIG|unix.ICANON) != 0 {
		t.Error("the terminal is not raw while the shell runs")
	}
	screen.keys(t, "exit 3\r")
	if code := <-ended; code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if screen.state(t) != before {
		t.Error("the terminal is not as it was before")
	}
}

func TestInterruptedShellGivesTheTerminalBack(t *testing.T) {
	agent := withPhone(t)
	screen := newTerminal(t, 80, 25)
	before := screen.state(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, Config{
			Args: []string{"--host", "unix://" + agent.socket, "shell", "cp-1"}, Stdin: screen.tty, Stdout: screen.tty, Stderr: io.Discard,
		})
	}()
	screen.until("shell [] 80x25")
	cancel()
	if code := <-ended; code != exitFailed {
		t.Errorf("exit code %d, want 1", code)
	}
	if screen.state(t) != before {
		t.Error("the terminal is not as it was before")
	}
}

func TestLogsCannotSteerATerminal(t *testing.T) {
	agent := withPhone(t)
	screen := newTerminal(t, 80, 25)
	code := Run(t.Context(), Config{Args: []string{"--host", "unix://" + agent.socket, "logs", "cp-1"}, Stdout: screen.tty, Stderr: screen.tty})
	if printed := screen.close(); code != exitDone || strings.Contains(printed, "\x1b") || !strings.Contains(printed, `init: \x1b[31mred`) {
		t.Errorf("exit code %d, printed %q", code, printed)
	}
}

func TestBinaryDataIsNotForTerminals(t *testing.T) {
	agent := withPhone(t)
	for _, args := range [][]string{{"screenshot", "cp-1", "-f", "-"}, {"record", "cp-1", "-f", "-"}, {"data", "export", "cp-1", "-f", "-"}} {
		screen := newTerminal(t, 80, 25)
		code := Run(t.Context(), Config{Args: append([]string{"--host", "unix://" + agent.socket}, args...), Stdout: screen.tty, Stderr: screen.tty})
		if printed := screen.close(); code != exitUsage || !strings.Contains(printed, "binary data") {
			t.Errorf("%v: exit code %d, printed %q", args, code, printed)
		}
	}
}

// operationOf returns an operation with the given progress of its phones; "" has ended well, and "!" has not.
func operationOf(progress ...string) *phonehostv1.Operation {
	op := &phonehostv1.Operation{Kind: phonehostv1.OperationKind_OPERATION_KIND_POWER_ON, CreateTime: timestamppb.New(base)}
	for i, progress := range progress {
		r := &phonehostv1.OperationResult{
			PhoneId: fmt.Sprintf("cp-%d", i+1), Progress: progress, State: phonehostv1.OperationState_OPERATION_STATE_RUNNING,
		}
		switch progress {
		case "":
			r.State, r.EndTime = phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED, timestamppb.New(base.Add(time.Second))
		case "!":
			r.State, r.EndTime = phonehostv1.OperationState_OPERATION_STATE_FAILED, timestamppb.New(base.Add(time.Second))
			r.Failure = &phonehostv1.Failure{Message: "no boot"}
		}
		op.Results = append(op.Results, r)
	}
	return op
}

func TestProgressOnATerminal(t *testing.T) {
	const erase, up1, up2 = "\x1b[J", "\x1b[1A\r", "\x1b[2A\r"
	queued := "QUEUED: waiting for a boot slot"
	screen := newTerminal(t, 48, 25)
	p := newProgress(screen.tty)
	p.update(operationOf("starting the guest", "starting the guest", queued, queued))
	p.update(operationOf("starting the guest", "starting the guest", queued, queued)) // nothing new, nothing written
	p.update(operationOf("", "waiting for boot completed", "starting the guest", queued))
	screen.resize(t, 40, 25)
	p.update(operationOf("", "!", "starting the guest", "starting the guest"))
	p.update(operationOf("", "!", "", ""))
	p.end()
	want := "\r" + erase + "[>---------] 0 of 4 done\r\n" +
		"starting the guest: cp-1, cp-2\r\n" +
		"QUEUED: 2, cp-3, cp-4" +
		up2 + erase + "cp-1: power-on done in 1s\r\n" +
		"[==>-------] 1 of 4 done\r\n" +
		"waiting for boot completed: cp-2; starting the…\r\n" +
		"QUEUED: 1, cp-4" +
		up2 + erase + "cp-2: power-on failed: no boot\r\n" +
		"[====>---] 1 of 4 done, 1 failed\r\n" +
		"starting the guest: cp-3, cp-4" +
		up1 + erase + "cp-3: power-on done in 1s\r\ncp-4: power-on done in 1s\r\n"
	if got := screen.close(); got != want {
		t.Errorf("printed\n%q, want\n%q", got, want)
	}
}

func TestProgressOfOnePhoneOnATerminal(t *testing.T) {
	screen := newTerminal(t, 80, 25)
	p := newProgress(screen.tty)
	p.update(operationOf("preparing"))
	p.update(operationOf("QUEUED: waiting for a boot slot"))
	p.update(operationOf(""))
	p.end()
	want := "\r\x1b[Jcp-1: preparing\r\x1b[Jcp-1: QUEUED: waiting for a boot slot\r\x1b[Jcp-1: power-on done in 1s\r\n"
	if got := screen.close(); got != want {
		t.Errorf("printed\n%q, want\n%q", got, want)
	}
}

func TestProgressElsewhere(t *testing.T) {
	var words bytes.Buffer
	p := newProgress(&words)
	p.update(operationOf("", "QUEUED: waiting for a boot slot", "!"))
	p.update(operationOf("", "starting the guest", "!"))
	p.update(operationOf("", "", "!"))
	p.end()
	want := "cp-1: power-on done in 1s\ncp-2: QUEUED: waiting for a boot slot\ncp-3: power-on failed: no boot\n" +
		"cp-2: starting the guest\ncp-2: power-on done in 1s\n"
	if words.String() != want {
		t.Errorf("printed\n%q, want\n%q", words.String(), want)
	}
}

func TestTransferOnATerminal(t *testing.T) {
	for _, end := range []string{"done", "abandon"} {
		t.Run(end, func(t *testing.T) {
			screen := newTerminal(t, 80, 25)
			bar := newTransfer(screen.tty, "testphone")
			bar.at("fetching", 10<<20, 30<<20)
			screen.until("testphone")
			screen.until("10MiB of 30MiB")
			if end == "done" {
				bar.at("fetching", 30<<20, 30<<20)
				bar.done()
			}
			bar.abandon()
			if _, err := screen.tty.WriteString("and on\n"); err != nil {
				t.Fatal(err)
			}
			if printed := screen.close(); !strings.HasSuffix(printed, "and on\r\n") {
				t.Errorf("printed %q", printed)
			}
		})
	}
}

func TestSourceStopsWhileItWaits(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	s, err := newSource(r)
	if err != nil {
		t.Fatal(err)
	}
	defer s.release()
	if _, err := w.WriteString("abc"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := s.Read(buf); string(buf[:n]) != "abc" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := s.Read(buf) // there is nothing more to read
		got <- err
	}()
	s.stop()
	if err := <-got; !errors.Is(err, errStopped) {
		t.Errorf("a stopped read returned %v", err)
	}
	if _, err := w.WriteString("later"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(buf); n != 0 || !errors.Is(err, errStopped) {
		t.Errorf("a read after stop returned %q, %v", buf[:n], err)
	}
}

func TestSourceOfNoFile(t *testing.T) {
	for _, r := range []io.Reader{nil, strings.NewReader("abc")} {
		s, err := newSource(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(s)
		if want := map[bool]string{true: "", false: "abc"}[r == nil]; string(got) != want || err != nil {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
		s.stop()
		s.release()
	}
	if _, ok := terminal(strings.NewReader("")); ok || term.IsTerminal(-1) {
		t.Error("a reader in memory is taken for a terminal")
	}
}
