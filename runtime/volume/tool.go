package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// finishTime is how long a program of e2fsprogs that was asked to end may take to leave the image in order.
const finishTime = 10 * time.Second

// run runs a program of e2fsprogs on a locked image and returns its exit code and what it printed, without the directory of the image.
// The program inherits the lock and so keeps it, should this process die. When ctx ends it is asked to end, which e2fsck does
// at a point where the file system can be checked again.
func run(ctx context.Context, image *os.File, name string, args ...string) (code int, output string, err error) {
	program, err := tool(name)
	if err != nil {
		return -1, "", err
	}
	var out clip
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.ExtraFiles = []*os.File{image}
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = finishTime
	err = cmd.Run()
	output = strings.ReplaceAll(out.String(), filepath.Dir(image.Name())+"/", "")
	if ctx.Err() != nil {
		return -1, output, fmt.Errorf("%s: %w", name, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), output, nil
	}
	if err != nil {
		return -1, output, fmt.Errorf("%s: %w: %s", name, err, output)
	}
	return 0, output, nil
}

// succeed is run for programs whose only good exit code is 0.
func succeed(ctx context.Context, image *os.File, name string, args ...string) error {
	code, output, err := run(ctx, image, name, args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s exited with %d: %s", name, code, output)
	}
	return err
}

// tool finds a program of e2fsprogs, which need not be on the PATH of a service.
func tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed; install the package e2fsprogs: %w", name, errdefs.ErrFailedPrecondition)
}

// clipBytes is how much a clip keeps of either end.
const clipBytes = 4096

// clip keeps the beginning and the end of what is written to it: what a check prints grows with the damage.
type clip struct {
	head, tail bytes.Buffer
	dropped    bool
}

func (c *clip) Write(p []byte) (int, error) {
	n := min(len(p), clipBytes-c.head.Len())
	c.head.Write(p[:n])
	c.tail.Write(p[n:])
	if over := c.tail.Len() - clipBytes; over > 0 {
		c.tail.Next(over)
		c.dropped = true
	}
	return len(p), nil
}

func (c *clip) String() string {
	head := c.head.String()
	if c.dropped {
		head += "\n[...]\n"
	}
	return strings.TrimSpace(head + c.tail.String())
}
