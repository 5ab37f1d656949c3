package testenv

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/dialer"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// Namespace is the containerd namespace of the clients that this package makes: the one that phonehost uses.
const Namespace = "phonehost"

// ContainerdServer is a containerd of one test: its own root, state and socket, no CRI.
type ContainerdServer struct {
	// Address is the path of its socket.
	Address string

	t       testing.TB
	dir     string
	program string

	mu      sync.Mutex
	running *daemon // nil while killed
}

// daemon is one run of containerd. done is closed when it has ended, and then log is complete.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// Containerd starts a containerd for this test and stops it when the test ends, with every task and shim that is left.
func Containerd(t testing.TB) *ContainerdServer {
	t.Helper()
	Root(t)
	var program string
	for _, tool := range []string{"runc", "containerd-shim-runc-v2", "containerd"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			path, err = exec.LookPath("/usr/sbin/" + tool)
		}
		if err != nil {
			Missing(t, "containerd", tool+" is not installed")
		}
		program = path
	}
	// Not t.TempDir: the path of a socket must be short.
	dir, err := os.MkdirTemp("", "phonehost-ctrd-")
	if err != nil {
		t.Fatal(err)
	}
	s := &ContainerdServer{Address: filepath.Join(dir, "containerd.sock"), t: t, dir: dir, program: program}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(s.config()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	s.Restart()
	return s
}

func (s *ContainerdServer) config() string {
	return fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
`, filepath.Join(s.dir, "root"), filepath.Join(s.dir, "state"), s.Address, filepath.Join(s.dir, "opt"))
}

// Restart starts containerd again after Kill. It returns when containerd serves.
func (s *ContainerdServer) Restart() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		s.t.Fatal("containerd runs already")
	}
	d := &daemon{cmd: exec.Command(s.program, "--config", filepath.Join(s.dir, "config.toml")), done: make(chan struct{})}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	started, booted := make(chan error, 1), make(chan struct{})
	go d.run(stderr, started, booted)
	if err := <-started; err != nil {
		s.t.Fatalf("start containerd: %v", err)
	}
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	select {
	case <-booted:
	case <-d.done:
		s.t.Fatalf("containerd ended while starting:\n%s", d.output())
	case <-limit.C:
		d.kill()
		s.t.Fatalf("containerd did not serve within a minute:\n%s", d.output())
	}
	s.running = d
}

// run starts the process and stays with it to its end. It keeps to one thread, since the kernel sends the parent-death signal
// when the thread that forked ends.
func (d *daemon) run(stderr io.Reader, started chan<- error, booted chan<- struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(d.done)
	if err := d.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		d.mu.Lock()
		d.log.Write(lines.Bytes())
		d.log.WriteByte('\n')
		d.mu.Unlock()
		if booted != nil && bytes.Contains(lines.Bytes(), []byte("containerd successfully booted")) {
			close(booted)
			booted = nil
		}
	}
	d.cmd.Wait()
}

func (d *daemon) kill() {
	d.cmd.Process.Kill()
	<-d.done
}

func (d *daemon) output() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// Kill ends containerd with SIGKILL, as a crash would. Shims and tasks go on.
func (s *ContainerdServer) Kill() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		s.t.Fatal("containerd does not run")
	}
	s.running.kill()
	s.running = nil
}

// Client returns a client with the namespace "phonehost". It is closed when the test ends, and connects again by itself, quickly,
// when containerd was away.
func (s *ContainerdServer) Client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(s.Address, client.WithDefaultNamespace(Namespace), client.WithDialOpts([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer.ContextDialer),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond},
			// Without it a connection that takes longer than the delay is given up, which in an emulated machine every one does.
			MinConnectTimeout: 20 * time.Second,
		}),
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// close kills the tasks and shims first, as they need no containerd for that, then containerd, and removes every trace.
func (s *ContainerdServer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running != nil {
		s.running.kill()
		if s.t.Failed() {
			s.t.Logf("containerd said:\n%s", s.running.output())
		}
	}
	for _, shim := range s.Shims() {
		for _, pid := range children(shim) {
			unix.Kill(pid, unix.SIGKILL)
		}
		unix.Kill(shim, unix.SIGKILL)
		waitGone(shim)
	}
	unmountBelow(s.dir)
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Errorf("remove the directory of containerd: %v", err)
	}
}

// Shims returns the process ids of the shims that this containerd has started and that still live.
func (s *ContainerdServer) Shims() []int {
	var pids []int
	for pid := range processes() {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		args := strings.Split(string(cmdline), "\x00")
		if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
			continue
		}
		for i, a := range args {
			if a == "-address" && i+1 < len(args) && args[i+1] == s.Address {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// processes lists all processes: pid to parent.
func processes() map[int]int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := make(map[int]int)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything; the fields after it are the state and the parent.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 {
			all[pid], _ = strconv.Atoi(fields[1])
		}
	}
	return all
}

func children(parent int) []int {
	var pids []int
	for pid, p := range processes() {
		if p == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}

// waitGone waits until a process that is no child of ours has ended.
func waitGone(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// unmountBelow detaches every mount below dir, the deepest first.
func unmountBelow(dir string) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	lines := strings.Split(string(info), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			unix.Unmount(fields[4], unix.MNT_DETACH)
		}
	}
}
