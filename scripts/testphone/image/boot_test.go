package image

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testphone/barcode"
	"github.com/phonehost/phonehost/scripts/testphone/property"
)

// native is the program for this machine, built once for all tests or before them.
var native = sync.OnceValues(func() ([]byte, error) {
	if path, ok := testenv.Prebuilt("testphone"); ok {
		return os.ReadFile(path)
	}
	return Build(context.Background(), runtime.GOARCH, "test")
})

// phone is a container that runc runs from the image's files.
type phone struct {
	t       *testing.T
	runc    string
	root    string
	bundle  string
	data    string // bound to /data
	wayland string // bound to /run/wayland
	args    []string
	caps    []string
	boots   int

	cmd   *exec.Cmd
	lines *bufio.Scanner
	pid   int
}

func newPhone(t *testing.T, args ...string) *phone {
	t.Helper()
	testenv.Root(t)
	p := &phone{
		t: t, runc: testenv.Tool(t, "runc"), root: t.TempDir(), bundle: t.TempDir(), data: t.TempDir(), wayland: t.TempDir(), args: args,
		caps: []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_BOOT"},
	}
	program, err := native()
	if err != nil {
		t.Fatal(err)
	}
	files, err := tree(program, runtime.GOARCH, "test")
	if err != nil {
		t.Fatal(err)
	}
	unpack(t, filepath.Join(p.bundle, "rootfs"), files)
	return p
}

// unpack writes the files of the image to a directory.
func unpack(t *testing.T, dir string, list []entry) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		path, err := filepath.Join(dir, e.name), error(nil)
		switch e.kind {
		case tar.TypeDir:
			err = os.Mkdir(path, os.FileMode(e.mode&0o777))
		case tar.TypeSymlink:
			err = os.Symlink(e.link, path)
		default:
			err = os.WriteFile(path, e.data, os.FileMode(e.mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (p *phone) spec() *specs.Spec {
	bind := func(from, to string) specs.Mount {
		return specs.Mount{Source: from, Destination: to, Type: "bind", Options: []string{"bind", "nosuid", "nodev"}}
	}
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: append([]string{"/init"}, p.args...), Env: []string{"PATH=/system/bin"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: p.caps, Effective: p.caps, Permitted: p.caps},
		},
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: "phone-1",
		Mounts: []specs.Mount{
			{Source: "proc", Destination: "/proc", Type: "proc"},
			{Source: "tmpfs", Destination: "/dev", Type: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			bind(p.data, "/data"), bind(p.wayland, "/run/wayland"),
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
		}},
	}
}

// boot starts the phone and waits until its property service answers.
func (p *phone) boot() {
	p.t.Helper()
	config, err := json.Marshal(p.spec())
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.bundle, "config.json"), config, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.boots++
	p.cmd = exec.Command(p.runc, "--root", p.root, "run", "--bundle", p.bundle, p.id())
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	cmd, id := p.cmd, p.id()
	p.t.Cleanup(func() {
		if cmd.ProcessState != nil {
			return
		}
		if out, err := exec.Command(p.runc, "--root", p.root, "kill", id, "KILL").CombinedOutput(); err != nil {
			p.t.Errorf("kill: %v: %s", err, out)
		}
		_ = cmd.Wait()
	})
	p.lines = bufio.NewScanner(out)
	p.line("init: service composer: started")
	text, err := exec.Command(p.runc, "--root", p.root, "state", p.id()).Output()
	if err != nil {
		p.t.Fatal(err)
	}
	var state specs.State
	if err := json.Unmarshal(text, &state); err != nil {
		p.t.Fatal(err)
	}
	p.pid = state.Pid
}

func (p *phone) id() string { return fmt.Sprintf("testphone-%d-%d", os.Getpid(), p.boots) }

// line reads what init prints until a line with a text.
func (p *phone) line(text string) string {
	p.t.Helper()
	var seen []string
	for p.lines.Scan() {
		seen = append(seen, p.lines.Text())
		if strings.Contains(p.lines.Text(), text) {
			return p.lines.Text()
		}
	}
	p.t.Fatalf("%q was not printed, but:\n%s", text, strings.Join(seen, "\n"))
	return ""
}

// exits reads what is left and returns the exit code.
func (p *phone) exits() int {
	for p.lines.Scan() {
	}
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// sh runs a command in the phone and returns what it prints.
func (p *phone) sh(command string) string {
	p.t.Helper()
	out, err := exec.CommandContext(p.t.Context(), p.runc, "--root", p.root, "exec", p.id(), "sh", "-c", command).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// props is a client of the phone's property service, from outside.
func (p *phone) props() *property.Client {
	return property.NewClient(fmt.Sprintf("/proc/%d/root%s", p.pid, property.SocketPath))
}

// await waits until a property has a value that satisfies f.
func (p *phone) await(name string, f func(value string) bool) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	defer cancel()
	err := p.props().Watch(ctx, name, func(prop property.Property) {
		if prop.Name == name && f(prop.Value) {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		p.t.Fatalf("%s: %v", name, err)
	}
}

// ask sends the request to end; the phone may be gone before the answer.
func (p *phone) ask(value string) {
	p.t.Helper()
	if err := p.props().Set(p.t.Context(), "sys.powerctl", value); err != nil {
		p.t.Fatal(err)
	}
}

func (p *phone) withoutBoot() {
	p.caps = slices.DeleteFunc(p.caps, func(c string) bool { return c == "CAP_SYS_BOOT" })
}

func (p *phone) signal(sig string) {
	p.t.Helper()
	if out, err := exec.Command(p.runc, "--root", p.root, "kill", p.id(), sig).CombinedOutput(); err != nil {
		p.t.Fatalf("kill: %v: %s", err, out)
	}
}

func TestHowAPhoneEnds(t *testing.T) {
	for _, test := range []struct {
		powerctl string
		boot     bool
		want     int
		reason   string
	}{
		{"reboot", true, 129, "reboot"},
		{"reboot,recovery", true, 129, "reboot,recovery"},
		{"shutdown", true, 130, "shutdown"},
		{"shutdown,userrequested", true, 130, "shutdown,userrequested"},
		{"reboot", false, 0, "reboot"},
		{"shutdown", false, 0, "shutdown"},
	} {
		t.Run(fmt.Sprintf("%s boot=%v", test.powerctl, test.boot), func(t *testing.T) {
			p := newPhone(t)
			if !test.boot {
				p.withoutBoot()
			}
			p.boot()
			p.ask(test.powerctl)
			if got := p.exits(); got != test.want {
				t.Errorf("exit code %d, want %d", got, test.want)
			}
			kept, err := property.ReadPersistent(filepath.Join(p.data, "property/persistent_properties"))
			if want := (property.Property{Name: "persist.sys.boot.reason", Value: test.reason}); err != nil || !slices.Contains(kept, want) {
				t.Errorf("kept %v, %v", kept, err)
			}
		})
	}
}

func TestRebootCommand(t *testing.T) {
	for command, want := range map[string]int{"reboot": 129, "reboot -p": 130} {
		p := newPhone(t)
		p.boot()
		cmd := exec.Command(p.runc, "--root", p.root, "exec", p.id(), "sh", "-c", command)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if got := p.exits(); got != want {
			t.Errorf("%s: exit code %d, want %d", command, got, want)
		}
		if err := cmd.Wait(); err == nil {
			t.Errorf("%s came back", command)
		}
	}
}

func TestSignalsToInit(t *testing.T) {
	t.Run("outside with CAP_SYS_BOOT", func(t *testing.T) {
		p := newPhone(t)
		p.boot()
		p.signal("TERM")
		p.line("SIGTERM from outside has no effect")
		p.ask("shutdown")
		if got := p.exits(); got != 130 {
			t.Errorf("exit code %d", got)
		}
	})
	t.Run("outside without CAP_SYS_BOOT", func(t *testing.T) {
		p := newPhone(t)
		p.withoutBoot()
		p.boot()
		p.signal("TERM")
		p.line("shutdown,container: ending services")
		if got := p.exits(); got != 0 {
			t.Errorf("exit code %d", got)
		}
	})
	t.Run("inside", func(t *testing.T) {
		p := newPhone(t)
		p.withoutBoot()
		p.boot()
		p.sh("for s in HUP INT QUIT USR1 ALRM TERM PIPE; do kill -$s 1; done")
		if got := p.sh("getprop init.svc.composer"); got != "running" {
			t.Errorf("the composer is %s", got)
		}
		p.ask("reboot")
		if line := p.line("ending services"); !strings.Contains(line, "init: reboot:") {
			t.Errorf("a signal from inside had an effect: %s", line)
		}
		p.exits()
	})
}

func TestDataSurvivesBoots(t *testing.T) {
	p := newPhone(t, "persist.given=1", "androidboot.serialno=S122", "androidboot.serialno=S123")
	for boot := 1; boot <= 2; boot++ {
		p.boot()
		want := map[string]string{
			"ro.testphone.first_boot": strconv.Itoa(2 - boot), "persist.testphone.boots": strconv.Itoa(boot),
			"persist.kept": map[int]string{2: "yes"}[boot], "persist.given": "1", "ro.serialno": "S123", "ro.build.version.sdk": "34",
			"sys.boot.reason.last": map[int]string{2: "reboot"}[boot],
		}
		for name, value := range want {
			if got := p.sh("getprop " + name); got != value {
				t.Errorf("boot %d: %s is %q, want %q", boot, name, got, value)
			}
		}
		p.sh("setprop persist.kept yes && setprop persist.given 2")
		p.ask("reboot")
		p.exits()
	}
	for _, dir := range []string{"system", "app", "data", "property", "local/tmp"} {
		if info, err := os.Stat(filepath.Join(p.data, dir)); err != nil || !info.IsDir() {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestDamagedPropertiesAreSetAside(t *testing.T) {
	p := newPhone(t)
	file := filepath.Join(p.data, "property/persistent_properties")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("\x0a\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.boot()
	if _, err := os.Stat(file + ".damaged"); err != nil {
		t.Error(err)
	}
	if got := p.sh("getprop persist.testphone.boots"); got != "1" {
		t.Errorf("boots %q", got)
	}
	p.ask("shutdown")
	p.exits()
}

func TestFloodAndLog(t *testing.T) {
	p := newPhone(t)
	p.boot()
	p.sh("log -t tag -p w hello there")
	if line := p.line("hello there"); !strings.HasPrefix(line, "W/tag(") {
		t.Errorf("log line %q", line)
	}
	p.sh("setprop debug.testphone.flood 1MiB")
	for n := range (1 << 20) / 128 {
		if want := fmt.Sprintf("flood %012d ", n); !strings.HasPrefix(p.line("flood 0"), want) {
			t.Fatalf("line %q, want %q", p.lines.Text(), want)
		}
	}
	p.line("service flood: pid")
	if got, err := os.ReadFile(filepath.Join(p.data, "flood.done")); string(got) != "1MiB\n" || err != nil {
		t.Errorf("flood.done: %q, %v", got, err)
	}
	p.ask("shutdown")
	p.exits()
}

// TestBootsToThePicture boots against the real display.
func TestBootsToThePicture(t *testing.T) {
	p := newPhone(t, "androidboot.phonehost_width=360", "androidboot.phonehost_height=640", "androidboot.phonehost_dpi=160", "androidboot.phonehost_fps=30")
	p.boot()
	p.line("screen: waiting for the display's socket /run/wayland/wayland-0")
	if got := p.sh("getprop sys.boot_completed"); got != "" {
		t.Errorf("booted without a display: %q", got)
	}
	pixels, err := screen.New(360, 640)
	if err != nil {
		t.Fatal(err)
	}
	server, err := wayland.New(wayland.Config{Screen: pixels, Dir: p.wayland, FPS: 30})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx) }()
	defer func() { cancel(); <-served }()
	p.await("sys.boot_completed", func(v string) bool { return v == "1" })
	snapshot := pixels.Snapshot()
	if n, err := barcode.Read(snapshot); n == 0 || err != nil {
		t.Errorf("frame %d, %v", n, err)
	}
	if got := snapshot.Bounds().Size(); got != image.Pt(360, 640) {
		t.Errorf("size %v", got)
	}
	p.ask("shutdown")
	if got := p.exits(); got != 130 {
		t.Errorf("exit code %d", got)
	}
}

// TestInitNeedsPidOne makes sure that init never sweeps away the processes of a machine.
func TestInitNeedsPidOne(t *testing.T) {
	program, err := native()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "pid 1 only") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestReadOnlyDataIsAClearError(t *testing.T) {
	p := newPhone(t)
	spec := p.spec()
	spec.Mounts[2].Options = append(spec.Mounts[2].Options, "ro")
	config, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.bundle, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(p.runc, "--root", p.root, "run", "--bundle", p.bundle, p.id()).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "prepare /data") {
		t.Errorf("%v: %s", err, out)
	}
}
