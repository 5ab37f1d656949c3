package binder

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// peerEnv has the test binary be another process that uses a device, until its input ends: "manage DEVICE" or "add DEVICE NAME".
const peerEnv = "PHONEHOST_BINDER_TEST_PEER"

const ready = "ready"

func TestMain(m *testing.M) {
	words := strings.Fields(os.Getenv(peerEnv))
	if len(words) == 0 {
		os.Exit(m.Run())
	}
	if err := peer(words); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func peer(words []string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	var err error
	switch words[0] {
	case "manage":
		err = ServeManager(ctx, words[1], slog.New(slog.NewTextHandler(firstMessage{}, nil)))
	case "add":
		err = Do(words[1], Service{Name: "test." + words[2]}, func(c *Conn) error {
			if err := c.AddService(ctx, words[2], 1); err != nil {
				return err
			}
			fmt.Println(ready)
			return c.Serve(ctx)
		})
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// firstMessage makes of a service manager's messages what its parent waits for.
type firstMessage struct{}

func (firstMessage) Write(b []byte) (int, error) {
	fmt.Println(ready)
	return len(b), nil
}

// process is another process.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	ended bool
}

// start starts another process with a user id and returns the first line that it prints.
func start(t *testing.T, uid uint32, words ...string) (*process, string) {
	t.Helper()
	p := &process{t: t, cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), peerEnv+"="+strings.Join(words, " "))
	p.cmd.Stderr = t.Output()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("%v says nothing: %v", words, err)
	}
	return p, strings.TrimSpace(line)
}

// end ends the process by its input.
func (p *process) end() {
	if !p.ended {
		p.ended = true
		p.stdin.Close()
		_ = p.cmd.Wait() // one that was refused exits with 1, and said so
	}
}

// kill ends it at once.
func (p *process) kill() {
	p.ended = true
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Error(err)
	}
	_ = p.cmd.Wait()
}
