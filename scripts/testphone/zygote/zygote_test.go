package zygote

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv"
)

// TestMain makes the test binary app_process, and the app: it says who it is and stays until its link ends.
func TestMain(m *testing.M) {
	if name := os.Getenv(AppEnv); name != "" {
		link := os.NewFile(Link, "link")
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			os.Exit(1)
		}
		cmdline, _ := os.ReadFile("/proc/self/cmdline")
		group, _ := unix.Getpgid(0)
		b, _ := json.Marshal(map[string]any{"status": string(status), "cmdline": string(cmdline), "group": group, "pid": os.Getpid()})
		fmt.Fprintf(link, "%s\n", b)
		_, _ = link.Read(make([]byte, 1))
		os.Exit(0)
	}
	if os.Args[0] == "app_process" {
		fmt.Println(Specialize(os.Args[1:]))
		os.Exit(2)
	}
	goleak.VerifyTestMain(m)
}

// zygote is a running one. What it logs comes by lines.
type zygote struct {
	socket string
	lines  chan string
}

func start(t *testing.T) *zygote {
	t.Helper()
	dir, err := os.MkdirTemp("", "zygote-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	program := copyProgram(t, dir)
	z := &zygote{socket: filepath.Join(dir, "zygote"), lines: make(chan string, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, Config{Socket: z.socket, Program: program, Printf: func(format string, args ...any) { z.lines <- fmt.Sprintf(format, args...) }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	for {
		conn, err := net.Dial("unix", z.socket)
		if err == nil {
			conn.Close() // a request that is none
			<-z.lines
			return z
		}
		select {
		case err := <-served:
			served <- nil
			t.Fatal(err)
		default:
		}
	}
}

// copyProgram copies the test binary to where every uid may run it.
func copyProgram(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "program")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, b, 0o755), os.Chmod(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

// link is a pair of sockets: ours, and the app's.
func link(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func TestSpecialize(t *testing.T) {
	testenv.Root(t)
	z := start(t)
	ours, theirs := link(t)
	pid, err := Start(z.socket, Request{UID: 1010053, GID: 1010054, Groups: []int{3003, 9997}, Name: "com.example.app:worker"}, theirs)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	line, err := bufio.NewReader(ours).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		Status, Cmdline string
		Group, PID      int
		Error           string
	}
	if err := json.Unmarshal([]byte(line), &said); err != nil || said.Error != "" {
		t.Fatalf("%s: %v", line, err)
	}
	if said.PID != pid || said.Group != pid || said.Cmdline != "com.example.app:worker\x00" {
		t.Errorf("pid %d, group %d, command line %q; want %d", said.PID, said.Group, said.Cmdline, pid)
	}
	for _, want := range []string{
		"Uid:\t1010053\t1010053\t1010053\t1010053\n", "Gid:\t1010054\t1010054\t1010054\t1010054\n", "Groups:\t3003 9997 \n",
		"CapEff:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", fmt.Sprintf("PPid:\t%d\n", os.Getpid()),
	} {
		if !strings.Contains(said.Status, want) {
			t.Errorf("the status has no %q:\n%s", want, said.Status)
		}
	}
	ours.Close()
	if got, want := <-z.lines, fmt.Sprintf("Process %d (com.example.app:worker) exited cleanly (0)", pid); got != want {
		t.Errorf("the zygote says %q, want %q", got, want)
	}
}

// TestAbort has a process that may not become another: the kernel knows no such group.
func TestAbort(t *testing.T) {
	z := start(t)
	ours, theirs := link(t)
	groups := []int{-1} // no such group
	if os.Geteuid() != 0 {
		groups = []int{3003}
	}
	pid, err := Start(z.socket, Request{UID: 10053, GID: 10053, Groups: groups, Name: "com.example.app"}, theirs)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	in := bufio.NewScanner(ours)
	if !in.Scan() || !strings.HasPrefix(in.Text(), `{"error":"setgroups `) {
		t.Errorf("the process says %q, %v", in.Text(), in.Err())
	}
	if in.Scan() {
		t.Errorf("and then %q", in.Text())
	}
	if got, want := <-z.lines, fmt.Sprintf("Process %d (com.example.app) exited due to signal 6 (ABRT)", pid); got != want {
		t.Errorf("the zygote says %q, want %q", got, want)
	}
}

func TestRequests(t *testing.T) {
	for _, r := range []Request{
		{UID: 0, GID: 10000, Name: "a"}, {UID: 10000, GID: 0, Name: "a"}, {UID: 10000, GID: 10000}, {UID: 10000, GID: 10000, Name: "a\nb"},
	} {
		if _, err := parse(r.arguments()); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, arg := range []string{"--setuid=x", "--setgroups=1,x", "--nonsense"} {
		if _, err := parse([]string{arg}); err == nil {
			t.Errorf("%s was taken", arg)
		}
	}
	want := Request{UID: 10000, GID: 10001, Groups: []int{1, 2}, Name: "a b"}
	got, err := parse(want.arguments())
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"", "x\n", "0\n", "65\n", "2\na\n", "1\na"} {
		if args, err := lines(bufio.NewReader(strings.NewReader(text))); err == nil {
			t.Errorf("%q gave %q", text, args)
		}
	}
}

func TestStartWithoutZygote(t *testing.T) {
	_, theirs := link(t)
	if _, err := Start(filepath.Join(t.TempDir(), "none"), Request{}, theirs); !errdefs.IsUnavailable(err) {
		t.Errorf("Start = %v", err)
	}
	z := start(t)
	if _, err := Start(z.socket, Request{UID: 0, GID: 0, Name: "a"}, theirs); !errdefs.IsUnavailable(err) {
		t.Errorf("a request for root: %v", err)
	}
	if line := <-z.lines; !strings.Contains(line, "refused") {
		t.Errorf("the zygote says %q", line)
	}
}

// TestEndsWithTheSystemServer starts one that ends at once.
func TestEndsWithTheSystemServer(t *testing.T) {
	dir := t.TempDir()
	lines := make(chan string, 10)
	err := Serve(t.Context(), Config{
		Socket: filepath.Join(dir, "z"), SystemServer: testenv.Tool(t, "true"), Printf: func(format string, args ...any) { lines <- fmt.Sprintf(format, args...) },
	})
	if err == nil || !strings.Contains(err.Error(), "the system server has ended") {
		t.Errorf("Serve = %v", err)
	}
	if line := <-lines; !strings.Contains(line, "(system_server) exited cleanly (0)") {
		t.Errorf("the zygote says %q", line)
	}
}
