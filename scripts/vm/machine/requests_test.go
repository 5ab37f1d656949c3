package machine

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/phonehost/phonehost/scripts/vm/control"
)

func TestVMRequests(t *testing.T) {
	m := started(t, config(t, "amd64", "6.12"))
	t.Run("exec", func(t *testing.T) { testExec(t, m) })
	t.Run("not started", func(t *testing.T) { testNotStarted(t, m) })
	t.Run("given up", func(t *testing.T) { testGivenUp(t, m) })
	t.Run("signals", func(t *testing.T) { testSignals(t, m) })
	t.Run("terminal", func(t *testing.T) { testTerminal(t, m) })
	t.Run("background", func(t *testing.T) { testBackground(t, m) })
	t.Run("much", func(t *testing.T) { testMuch(t, m) })
	t.Run("many", func(t *testing.T) { testMany(t, m) })
	t.Run("files", func(t *testing.T) { testFiles(t, m) })
	t.Run("dial", func(t *testing.T) { testDial(t, m) })
	t.Run("forward", func(t *testing.T) { testForward(t, m) })
	t.Run("no way out", func(t *testing.T) { testNoWayOut(t, m) })
	t.Run("modules", func(t *testing.T) { testModules(t, m) })
	t.Run("orphans", func(t *testing.T) { testOrphans(t, m) })
}

func testExec(t *testing.T, m *Machine) {
	type outcome struct {
		Code        int
		Out, Stderr string
	}
	for name, test := range map[string]struct {
		command control.Command
		want    outcome
	}{
		"success":        {control.Command{Args: []string{"echo", "a  b"}}, outcome{0, "a  b\n", ""}},
		"exit code":      {control.Command{Args: []string{"sh", "-c", "echo out; echo err >&2; exit 37"}}, outcome{37, "out\n", "err\n"}},
		"signal":         {control.Command{Args: []string{"sh", "-c", "kill -9 $$"}}, outcome{137, "", ""}},
		"environment":    {control.Command{Args: []string{"sh", "-c", "echo $A $HOME"}, Env: []string{"A=1", "A=2"}}, outcome{0, "2 /root\n", ""}},
		"directory":      {control.Command{Args: []string{"pwd"}, Dir: "/proc"}, outcome{0, "/proc\n", ""}},
		"user":           {control.Command{Args: []string{"sh", "-c", "id -u; id -g; id -G"}, User: "nobody"}, outcome{0, "65534\n65534\n65534\n", ""}},
		"uid and gid":    {control.Command{Args: []string{"sh", "-c", "id -u; id -g"}, User: "12:34"}, outcome{0, "12\n34\n", ""}},
		"no input":       {control.Command{Args: []string{"cat"}}, outcome{0, "", ""}},
		"input":          {control.Command{Args: []string{"cat"}, Stdin: strings.NewReader("hello")}, outcome{0, "hello", ""}},
		"input not read": {control.Command{Args: []string{"true"}, Stdin: strings.NewReader(strings.Repeat("x", 3<<20))}, outcome{0, "", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			test.command.Stdout, test.command.Stderr = &out, &stderr
			code, err := m.Exec(bounded(t), test.command)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, outcome{code, out.String(), stderr.String()}); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("one writer for both", func(t *testing.T) {
		want := strings.Repeat("out\nerr\n", 50)
		if got := sh(t, m, "for i in $(seq 50); do echo out; echo err >&2; done"); got+"\n" != want {
			t.Errorf("order of output: got %q", got)
		}
	})
}

func testNotStarted(t *testing.T, m *Machine) {
	for name, test := range map[string]struct {
		command control.Command
		is      func(error) bool
	}{
		"no such name":     {control.Command{Args: []string{"no-such-program"}}, errdefs.IsNotFound},
		"no such path":     {control.Command{Args: []string{"/no/such/program"}}, errdefs.IsNotFound},
		"not executable":   {control.Command{Args: []string{"/etc/passwd"}}, errdefs.IsPermissionDenied},
		"no such user":     {control.Command{Args: []string{"true"}, User: "somebody"}, errdefs.IsNotFound},
		"no such dir":      {control.Command{Args: []string{"true"}, Dir: "/no/such"}, errdefs.IsNotFound},
		"no program":       {control.Command{}, errdefs.IsInvalidArgument},
		"too long to send": {control.Command{Args: []string{"echo", strings.Repeat("x", 5<<20)}}, errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if code, err := m.Exec(bounded(t), test.command); !test.is(err) || code != -1 {
				t.Errorf("got code %d, error %v (%T)", code, err, err)
			}
		})
	}
}

// testGivenUp ends a context while programs run: they and their children must be gone.
func testGivenUp(t *testing.T, m *Machine) {
	ctx, cancel := context.WithCancelCause(bounded(t))
	why := errors.New("enough")
	started := writer(func(p []byte) (int, error) {
		cancel(why)
		return len(p), nil
	})
	_, err := m.Exec(ctx, control.Command{Args: []string{"sh", "-c", "sleep 4242 & echo; wait"}, Stdout: started})
	if !errors.Is(err, why) {
		t.Errorf("got %v, want the context's cause", err)
	}
	sh(t, m, "while ps | grep -q '[s]leep 4242'; do :; done")

	broken := errors.New("broken")
	_, err = m.Exec(bounded(t), control.Command{Args: []string{"sh", "-c", "echo; exec sleep 4243"}, Stdout: writer(func([]byte) (int, error) { return 0, broken })})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the writer's error", err)
	}
	sh(t, m, "while ps | grep -q '[s]leep 4243'; do :; done")
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func testSignals(t *testing.T, m *Machine) {
	signals := make(chan syscall.Signal, 1)
	var out bytes.Buffer
	code, err := m.Exec(bounded(t), control.Command{
		Args:    []string{"sh", "-c", "trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 1; done"},
		Signals: signals,
		Stdout: writer(func(p []byte) (int, error) {
			if out.Len() == 0 {
				signals <- syscall.SIGUSR1
			}
			return out.Write(p)
		}),
	})
	if err != nil || code != 3 || out.String() != "ready\ngot\n" {
		t.Errorf("got code %d, error %v, output %q", code, err, &out)
	}
}

func testTerminal(t *testing.T, m *Machine) {
	sizes := make(chan control.Size, 1)
	var out bytes.Buffer
	input, typed := io.Pipe()
	defer typed.Close()
	code, err := m.Exec(bounded(t), control.Command{
		Args:     []string{"sh", "-c", "tty; trap 'stty size; exit 5' WINCH; stty size; read x; echo read $x; while :; do sleep 1; done"},
		Terminal: &control.Size{Columns: 100, Rows: 30}, Stdin: input, Resize: sizes,
		Stdout: writer(func(p []byte) (int, error) {
			before := out.String()
			n, err := out.Write(p)
			if s := out.String(); strings.Contains(s, "30 100") && !strings.Contains(before, "30 100") {
				go typed.Write([]byte("hello\r"))
			} else if strings.Contains(s, "read hello") && !strings.Contains(before, "read hello") {
				sizes <- control.Size{Columns: 132, Rows: 50}
			}
			return n, err
		}),
	})
	if err != nil || code != 5 || !strings.HasPrefix(out.String(), "/dev/pts/") || !strings.Contains(out.String(), "50 132") {
		t.Errorf("got code %d, error %v, output %q", code, err, &out)
	}
}

// testBackground leaves a child behind that has the program's output open and writes to it later.
func testBackground(t *testing.T, m *Machine) {
	sh(t, m, "rm -f /tmp/go; (while [ ! -e /tmp/go ]; do sleep 0.1; done; echo late; touch /tmp/done) & echo early")
	sh(t, m, "touch /tmp/go; while [ ! -e /tmp/done ]; do :; done")
}

func testMuch(t *testing.T, m *Machine) {
	const size = 64 << 20
	var n int
	began := time.Now()
	code, err := m.Exec(bounded(t), control.Command{Args: []string{"head", "-c", fmt.Sprint(size), "/dev/zero"}, Stdout: writer(func(p []byte) (int, error) {
		n += len(p)
		return len(p), nil
	})})
	if code != 0 || err != nil || n != size {
		t.Errorf("got %d bytes, code %d, error %v, want %d bytes", n, code, err, size)
	}
	t.Logf("from the guest: %.0f MB/s", size/1e6/time.Since(began).Seconds())
	began = time.Now()
	var out bytes.Buffer
	code, err = m.Exec(bounded(t), control.Command{Args: []string{"wc", "-c"}, Stdin: io.LimitReader(zeros{}, size), Stdout: &out})
	if code != 0 || err != nil || strings.TrimSpace(out.String()) != fmt.Sprint(size) {
		t.Errorf("got %q, code %d, error %v, want %d bytes", &out, code, err, size)
	}
	t.Logf("to the guest: %.0f MB/s", size/1e6/time.Since(began).Seconds())
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func testMany(t *testing.T, m *Machine) {
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			var out bytes.Buffer
			text := strings.Repeat(fmt.Sprint(i, " "), 1000)
			code, err := m.Exec(bounded(t), control.Command{Args: []string{"sh", "-c", fmt.Sprintf("cat; exit %d", i)}, Stdin: strings.NewReader(text), Stdout: &out})
			if err != nil || code != i || out.String() != text {
				t.Errorf("program %d: code %d, error %v, %d bytes of %d", i, code, err, out.Len(), len(text))
			}
		})
	}
	all.Wait()
}

func testFiles(t *testing.T, m *Machine) {
	data := make([]byte, 5<<20)
	rand.Read(data)
	if err := m.Put(bounded(t), "/tmp/new/dir/file", 0o750, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, m, "ls -l /tmp/new/dir | tail -n +2 | cut -c 1-10"); got != "-rwxr-x---" {
		t.Errorf("mode: got %q", got)
	}
	var back bytes.Buffer
	if err := m.Get(bounded(t), "/tmp/new/dir/file", &back); err != nil || !bytes.Equal(back.Bytes(), data) {
		t.Errorf("got %d bytes, %v", back.Len(), err)
	}
	if err := m.Get(bounded(t), "/tmp/none", &back); !errdefs.IsNotFound(err) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := m.Put(bounded(t), "relative", 0o644, strings.NewReader("x")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a relative path: %v", err)
	}
	broken := errors.New("broken")
	if err := m.Put(bounded(t), "/tmp/new/dir/file", 0o644, io.MultiReader(strings.NewReader("half"), reader{broken})); !errors.Is(err, broken) {
		t.Errorf("a reader that breaks: %v", err)
	}
	if got := sh(t, m, "wc -c < /tmp/new/dir/file; while ls -A /tmp/new/dir | grep -q put; do :; done"); got != fmt.Sprint(len(data)) {
		t.Errorf("a broken Put left %s bytes, want the old file", got)
	}
	if err := m.Put(bounded(t), "/proc/none", 0o644, bytes.NewReader(data)); err == nil {
		t.Error("a file in /proc was made")
	}
}

type reader struct{ err error }

func (r reader) Read([]byte) (int, error) { return 0, r.err }

func testDial(t *testing.T, m *Machine) {
	sh(t, m, "setsid nc -ll -p 7000 -e cat > /dev/null 2>&1 & until grep -q ':1B58 ' /proc/net/tcp*; do :; done")
	conn, err := m.Dial(bounded(t), "tcp", "127.0.0.1:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echo(t, conn)
	if _, err := m.Dial(bounded(t), "tcp", "127.0.0.1:7001"); !errdefs.IsUnavailable(err) {
		t.Errorf("a port on which nobody listens: %v", err)
	}
	if _, err := m.Dial(bounded(t), "unix", "/run/none.sock"); !errdefs.IsNotFound(err) {
		t.Errorf("a socket that is not there: %v", err)
	}
	if _, err := m.Dial(bounded(t), "udp", "127.0.0.1:7000"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a network without streams: %v", err)
	}
}

// echo sends some bytes and the end of them, and reads them back.
func echo(t *testing.T, conn net.Conn) {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789"), 50_000)
	var back []byte
	var read error
	var reading sync.WaitGroup
	reading.Go(func() { back, read = io.ReadAll(conn) })
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	reading.Wait()
	if read != nil || !bytes.Equal(back, data) {
		t.Errorf("got %d bytes of %d back, %v", len(back), len(data), read)
	}
}

func testForward(t *testing.T, m *Machine) {
	first, err := m.Forward(bounded(t), 7000)
	if err != nil {
		t.Fatal(err)
	}
	second, err := m.Forward(bounded(t), 7000)
	if err != nil || first == second {
		t.Fatalf("forwarded twice: %s and %s, %v", first, second, err)
	}
	for _, address := range []string{first, second} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		echo(t, conn)
	}
	if _, err := m.Forward(bounded(t), 70_000); !errdefs.IsInvalidArgument(err) {
		t.Errorf("port 70000: %v", err)
	}
}

// testModules loads modules by name, by alias, and by the kernel's own wish.
func testModules(t *testing.T, m *Machine) {
	if got := sh(t, m, "/sbin/modprobe overlay && modprobe snd-aloop && cut -d' ' -f1 /proc/modules | grep -x -e overlay -e snd_aloop | sort"); got != "overlay\nsnd_aloop" {
		t.Errorf("modprobe: got %q", got)
	}
	sh(t, m, "ip link add dummy7 type dummy") // asks the kernel for rtnl-link-dummy
	if out := sh(t, m, "/sbin/modprobe no-such-module 2>&1 && echo loaded || echo refused"); !strings.Contains(out, "no_such_module") || !strings.HasSuffix(out, "refused") {
		t.Errorf("a module that is not there: %s", out)
	}
}

// testOrphans leaves processes without a parent: process 1 must take their exit status.
func testOrphans(t *testing.T, m *Machine) {
	sh(t, m, "for i in $(seq 20); do (sh -c 'exit 1' &) ; done")
	sh(t, m, "while ps -o stat | grep -q Z; do :; done")
}
