package main

import (
	"bufio"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/encoder/control"
	"github.com/phonehost/phonehost/encoder/internal/displayclient"
	"github.com/phonehost/phonehost/encoder/internal/testguest"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// display is a running phone-display.
type display struct {
	cmd           *exec.Cmd
	dir           string
	width, height int
	ended         chan struct{} // closed when its standard error ended
}

// startDisplay runs the real program, and at the end of the test ends it by SIGTERM, as containerd does.
func startDisplay(t testing.TB, width, height, fps int) *display {
	t.Helper()
	d := &display{dir: t.TempDir(), width: width, height: height, ended: make(chan struct{})}
	d.cmd = exec.Command(testenv.Binary(t, "encoder/cmd/phone-display"), "--wayland-dir", d.dir, "--control-dir", d.dir,
		"--width", itoa(width), "--height", itoa(height), "--fps", itoa(fps))
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.stop(t) })
	log := bufio.NewReader(stderr)
	var seen strings.Builder
	for !strings.Contains(seen.String(), "display starts") {
		line, err := log.ReadString('\n')
		seen.WriteString(line)
		if err != nil {
			t.Fatalf("phone-display did not start:\n%s", &seen)
		}
	}
	go func() {
		defer close(d.ended)
		io.Copy(io.Discard, log)
	}()
	return d
}

// stop ends the display and checks that it leaves in order and leaves nothing.
func (d *display) stop(t testing.TB) {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("end the display: %v", err)
	}
	<-d.ended
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("the display ended with %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.dir, "*")); len(left) != 0 {
		t.Errorf("the display left %v", left)
	}
}

// guest connects a guest whose window is the whole screen and has a number of buffers.
func (d *display) guest(t testing.TB, buffers int) *testguest.Guest {
	t.Helper()
	g, err := testguest.Dial(filepath.Join(d.dir, "wayland-0"), d.width, d.height, buffers)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// client connects an agent and says hello.
func (d *display) client(t testing.TB) *displayclient.Client {
	t.Helper()
	c, err := displayclient.Dial(filepath.Join(d.dir, control.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	if a, err := c.Call(displayclient.Hello()); err != nil || a.GetHello() == nil {
		t.Fatalf("hello: %v, %v", a, err)
	}
	return c
}
