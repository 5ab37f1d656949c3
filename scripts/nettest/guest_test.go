package nettest

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/ocispec"
	"github.com/phonehost/phonehost/runtime/profile"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// childEnv says what this program is, if it is not the tests: "inside" or "engine".
const childEnv = "PHONEHOST_NETTEST_CHILD"

// attacker is the profile of a guest that has all that any profile grants and is useful on a network.
func attacker(t *testing.T) *profile.Profile {
	t.Helper()
	all := profile.Profile{
		Name: "attacker", Args: func(profile.Boot) []string { return []string{"/nettest"} }, MaxPIDs: 4096, Sysctls: true,
		CheckProperties: func(map[string]string) error { return nil },
		Env:             []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", childEnv + "=inside"},
	}
	for _, name := range profile.Names() {
		p, err := profile.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Capabilities = append(all.Capabilities, p.Capabilities...)
		all.Seccomp.BPF = all.Seccomp.BPF || p.Seccomp.BPF
		all.Seccomp.Android = all.Seccomp.Android || p.Seccomp.Android
	}
	slices.Sort(all.Capabilities)
	mine := capabilities(t)
	all.Capabilities = slices.DeleteFunc(slices.Compact(all.Capabilities), func(c string) bool { return !slices.Contains(mine, c) })
	if !all.Seccomp.BPF || !slices.Contains(all.Capabilities, "CAP_NET_ADMIN") || !slices.Contains(all.Capabilities, "CAP_SYS_ADMIN") {
		t.Fatalf("the profiles' union is weaker than it was: %q, %+v", all.Capabilities, all.Seccomp)
	}
	return &all
}

// capabilities are those that the tests themselves may give: in a container they may lack CAP_SYS_RESOURCE or CAP_SYSLOG.
func capabilities(t *testing.T) []string {
	t.Helper()
	status, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer status.Close()
	sets, err := cap.ParseProcPIDStatus(status)
	if err != nil {
		t.Fatal(err)
	}
	names, _ := cap.FromBitmap(sets[cap.Bounding])
	return names
}

// guest is a container in a phone's network namespace.
type guest struct {
	t   *testing.T
	id  string
	mu  sync.Mutex // one order at a time
	in  *gob.Encoder
	out *gob.Decoder
}

// newGuest starts the attacker in a phone; the test's end stops it.
func (w *world) newGuest(id string) *guest {
	t := w.t
	t.Helper()
	runc := testenv.Tool(t, "runc")
	mountControlGroups(t)
	spec, err := ocispec.BuildGuest(ocispec.Guest{
		ID: id, Arch: runtime.GOARCH, Profile: attacker(t), CgroupsPath: "/phonehost-nettest/" + id, NetNS: w.cfg.NetNS.Path(id),
		Limits: ocispec.Limits{CPUs: 1, MemoryBytes: 1 << 30, PIDs: 4096, Files: 4096},
	})
	if err != nil {
		t.Fatal(err)
	}
	bundle := t.TempDir()
	spec.Root = &specs.Root{Path: guestRoot(t), Readonly: true}
	spec.Mounts = append(spec.Mounts[:3], programs()...) // proc, sys, dev
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, id, exec.Command(runc, "--root", "/run/nettest", "run", "--bundle", bundle, id))
}

// start starts runc and talks with what runs in the container.
func start(t *testing.T, id string, cmd *exec.Cmd) *guest {
	t.Helper()
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the container of %s: %v: %s", id, err, complaints.String())
		}
	})
	return &guest{t: t, id: id, in: gob.NewEncoder(in), out: gob.NewDecoder(out)}
}

// guestRoot is a root directory for programs of the host's.
func guestRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"proc", "sys", "dev", "tmp", "usr", "etc"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if target, err := os.Readlink("/" + name); err == nil {
			if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(root, "nettest"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// programs are the mounts of the tests' own program and of the host's.
func programs() []specs.Mount {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	mounts := []specs.Mount{{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "size=64m"}}}
	for to, from := range map[string]string{"/nettest": self, "/usr": "/usr", "/etc": "/etc"} {
		mounts = append(mounts, specs.Mount{Destination: to, Type: "bind", Source: from, Options: []string{"rbind", "ro", "nosuid", "nodev"}})
	}
	return mounts
}

// do carries an order out in the phone. Any goroutine may call it.
func (g *guest) do(o order) (r outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.in.Encode(o)
	if err == nil {
		err = g.out.Decode(&r)
	}
	if err != nil {
		return outcome{Err: fmt.Sprintf("the process in %s does not answer: %v", g.id, err)}
	}
	return r
}

// keepSending sends frames, so many times at once, until what it returns is called, which tells how many frames were sent.
func (g *guest) keepSending(frames [][]byte, times int) (stop func() (sent int)) {
	var sending sync.WaitGroup
	ended := make(chan struct{})
	sent := 0
	sending.Go(func() {
		for {
			select {
			case <-ended:
				return
			default:
			}
			if r := g.do(order{Frames: frames, Times: times}); r.Err != "" {
				g.t.Errorf("%s sends: %s", g.id, r.Err)
				return
			}
			sent += times * len(frames)
		}
	})
	return func() int {
		close(ended)
		sending.Wait()
		return sent
	}
}

// send sends frames by eth0.
func (g *guest) send(frames ...[]byte) {
	g.t.Helper()
	if r := g.do(order{Frames: frames}); r.Err != "" {
		g.t.Fatalf("%s sends: %s", g.id, r.Err)
	}
}

// run runs a program, which must succeed, and returns what it printed.
func (g *guest) run(args ...string) string {
	g.t.Helper()
	r := g.do(order{Args: args})
	if r.Err != "" || r.Exit != 0 {
		g.t.Fatalf("in %s: %q: exit %d %s\n%s", g.id, args, r.Exit, r.Err, r.Out)
	}
	return r.Out
}

// controlGroups are mounted once in the tests' own mount namespace.
var controlGroups sync.Once

// mountControlGroups mounts the hierarchies of the host's control groups where the network's own sysfs hides them.
func mountControlGroups(t *testing.T) {
	t.Helper()
	controlGroups.Do(func() {
		text, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			// mountinfo(5): the fields from the sixth on end with a hyphen, behind which are type, source and options.
			mount, system, _ := strings.Cut(line, " - ")
			at, kind := strings.Fields(mount)[4], strings.Fields(system)
			if at != "/sys/fs/cgroup" && !strings.HasPrefix(at, "/sys/fs/cgroup/") {
				continue
			}
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			options := ""
			if kind[0] == "cgroup" {
				options = strings.TrimPrefix(kind[2], "rw,")
			}
			if err := unix.Mount(kind[1], at, kind[0], 0, options); err != nil {
				t.Fatalf("mount %s at %s: %v", kind[0], at, err)
			}
		}
	})
}
