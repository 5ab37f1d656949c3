package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ctrPhone is a phone's two containers as ctr makes them, from the specs of `phonectl spec`. They use the directories and the network
// namespace of the phone, which is off meanwhile and was on before.
type ctrPhone struct {
	h *host
	// name is that of the guest's container; the display's ends in ".display".
	name           string
	guest, display *specs.Spec
	// dir holds the root file system, the volume, the specs and the logs.
	dir string
	// loop is the device of the volume; empty while it is not attached. mounted is whether the root file system is.
	loop    string
	mounted bool
}

// newCtrPhone reads the specs of a phone. Whatever is made of them is gone when the benchmark ends.
func (h *host) newCtrPhone(id string) *ctrPhone {
	h.t.Helper()
	p := &ctrPhone{h: h, name: "ctr-" + id, dir: h.path("ctr", id), guest: h.spec(id), display: h.spec(id, "--display")}
	for name, spec := range map[string]*specs.Spec{p.name: p.guest, p.name + ".display": p.display} {
		spec.Annotations["io.containerd.runc.v2.group"] = p.name
		spec.Linux.CgroupsPath = h.ctrCgroup() + "/" + name
	}
	h.t.Cleanup(func() {
		if err := p.discard(context.Background()); err != nil {
			h.t.Errorf("clear away %s: %v", p.name, err)
		}
	})
	return p
}

// ctrCgroup is the cgroup of what ctr starts.
func (h *host) ctrCgroup() string { return h.cgroupRoot() + "-ctr" }

// removeCtrCgroup removes it, which runc leaves, from every hierarchy.
func (h *host) removeCtrCgroup() error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		left, err := filepath.Glob(pattern + h.ctrCgroup())
		errs = append(errs, err)
		for _, dir := range left {
			errs = append(errs, os.Remove(dir))
		}
	}
	return errors.Join(errs...)
}

// prepare makes what the containers stand on: the root file system as a snapshot that is mounted, the volume with its file system as the
// agent makes it, and its loop device.
func (p *ctrPhone) prepare(ctx context.Context) error {
	rootfs, image := filepath.Join(p.dir, "rootfs"), filepath.Join(p.dir, "data.img")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	if _, err := p.ctr(ctx, "image", "mount", "--rw", "phonehost.dev/testphone:latest", rootfs); err != nil {
		return err
	}
	p.mounted = true
	if _, err := output(ctx, "truncate", "-s", "128M", image); err != nil {
		return err
	}
	if _, err := output(ctx, "mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-O", "metadata_csum_seed",
		"-E", "lazy_journal_init=1", image); err != nil {
		return err
	}
	device, err := output(ctx, "losetup", "--find", "--show", image)
	if err != nil {
		return err
	}
	p.loop = strings.TrimSpace(device)
	p.guest.Root.Path = rootfs
	for i, m := range p.guest.Mounts {
		if m.Destination == "/data" {
			p.guest.Mounts[i].Source = p.loop
		}
	}
	for name, spec := range map[string]*specs.Spec{"guest": p.guest, "display": p.display} {
		text, err := json.Marshal(spec)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(p.dir, name+".json"), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// run creates and starts both containers, the display first, and returns the guest's log when it holds a line with the words.
func (p *ctrPhone) run(ctx context.Context, words string) (log string, err error) {
	logs := filepath.Join(p.dir, "log")
	if err := errors.Join(os.RemoveAll(logs), os.Mkdir(logs, 0o755)); err != nil {
		return "", err
	}
	for _, role := range []string{"display", "guest"} {
		name := p.name
		if role == "display" {
			name += ".display"
		}
		config, uri := filepath.Join(p.dir, role+".json"), "file://"+filepath.Join(logs, role)
		if _, err := p.ctr(ctx, "run", "-d", "--config", config, "--log-uri", uri, name); err != nil {
			return "", err
		}
	}
	return waitLine(ctx, filepath.Join(logs, "guest"), words)
}

// remove ends and removes both containers.
func (p *ctrPhone) remove(ctx context.Context) error {
	for _, name := range []string{p.name, p.name + ".display"} {
		if _, err := p.ctr(ctx, "task", "rm", "-f", name); err != nil {
			return err
		}
		if _, err := p.ctr(ctx, "container", "rm", name); err != nil {
			return err
		}
	}
	return nil
}

// discard undoes prepare, as far as it came.
func (p *ctrPhone) discard(ctx context.Context) error {
	var errs []error
	if p.loop != "" {
		_, err := output(ctx, "losetup", "-d", p.loop)
		errs = append(errs, err)
		p.loop = ""
	}
	if p.mounted {
		_, err := p.ctr(ctx, "image", "unmount", "--rm", filepath.Join(p.dir, "rootfs"))
		errs = append(errs, err)
		p.mounted = false
	}
	return errors.Join(append(errs, os.RemoveAll(p.dir))...)
}

// ctr runs ctr at the host's containerd.
func (p *ctrPhone) ctr(ctx context.Context, args ...string) (string, error) {
	return p.h.ctrTool(ctx, args...)
}

// ctrTool runs ctr at the host's containerd and returns what it prints.
func (h *host) ctrTool(ctx context.Context, args ...string) (string, error) {
	return output(ctx, "ctr", append([]string{"--address", h.containerd.Address, "-n", "phonehost"}, args...)...)
}

// output runs a program and returns what it prints; what it printed is in the error where it fails.
func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// spec returns what `phonectl spec` prints.
func (h *host) spec(id string, flags ...string) *specs.Spec {
	h.t.Helper()
	var spec specs.Spec
	if err := json.Unmarshal([]byte(h.ctl(append([]string{"spec", id}, flags...)...)), &spec); err != nil {
		h.t.Fatalf("decode phonectl spec: %v", err)
	}
	return &spec
}

// logTime bounds the wait for a line of a log.
const logTime = 2 * time.Minute

// waitLine returns what a growing file holds as soon as a line of it has the words.
func waitLine(ctx context.Context, path, words string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, logTime)
	defer cancel()
	// It is not looked at again and again: the processor belongs to what is measured.
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return "", err
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_CREATE|unix.IN_MODIFY); err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Now()) })()
	for {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if _, after, found := strings.Cut(string(text), words); found && strings.Contains(after, "\n") {
			return string(text), nil
		}
		if _, err := events.Read(make([]byte, 4096)); err != nil {
			return "", fmt.Errorf("%s has no line with %q: %w", path, words, errors.Join(err, ctx.Err()))
		}
	}
}

var started = regexp.MustCompile(`pid 1, started (\S+)`)

// firstInstruction reads when init says that it began; the last run counts.
func firstInstruction(b *testing.B, log string) time.Time {
	b.Helper()
	all := started.FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		b.Fatalf("no word of init's start in %q", log)
	}
	at, err := time.Parse(time.RFC3339Nano, all[len(all)-1][1])
	if err != nil {
		b.Fatal(err)
	}
	return at
}
