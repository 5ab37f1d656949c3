package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is QEMU, a child that the kernel kills when we end.
type process struct {
	cmd    *exec.Cmd
	stderr tail
	exited chan struct{} // closed when it has been waited for
}

// startProcess starts a program with files as its descriptors from 3 on. The thread that starts it lives as long as it does:
// the signal that ends a child with its parent comes when the parent's thread ends.
func startProcess(path string, args []string, files ...*os.File) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), exited: make(chan struct{})}
	p.cmd.ExtraFiles = files
	p.cmd.Stdout, p.cmd.Stderr = &p.stderr, &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // a terminal's Ctrl-C is ours to handle
	p.cmd.WaitDelay = time.Second
	started := make(chan error)
	go func() {
		defer close(p.exited)
		runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-p.exited
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return p, nil
}

// kill ends the process and waits for it.
func (p *process) kill() {
	p.cmd.Process.Kill() // an error means that it has ended
	<-p.exited
}

// stop lets the process end by itself, which was asked to, until ctx ends.
func (p *process) stop(ctx context.Context) {
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.kill()
	}
}

// err says how the process ended.
func (p *process) err() error {
	text := strings.TrimSpace(p.stderr.String())
	if text == "" {
		text = "without a word"
	}
	return errors.New("QEMU ended: " + p.cmd.ProcessState.String() + ": " + text)
}

// tail keeps the last bytes that were written. It is safe for concurrent use.
type tail struct {
	mu   sync.Mutex
	data []byte
}

// tailBytes is how much of QEMU's messages, and of the serial log in an error, is told.
const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - tailBytes; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}
