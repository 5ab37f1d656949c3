package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/encoder/wayland"
	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// display starts the real display for the phone, for all of its boots.
func (p *phone) display() *screen.Screen {
	p.t.Helper()
	pixels, err := screen.New(360, 640)
	if err != nil {
		p.t.Fatal(err)
	}
	server, err := wayland.New(wayland.Config{Screen: pixels, Dir: p.wayland, FPS: 30})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx) }()
	p.t.Cleanup(func() { cancel(); <-served })
	return pixels
}

// booted boots and waits until the phone says that it has.
func (p *phone) booted() {
	p.t.Helper()
	p.boot()
	p.await("sys.boot_completed", func(v string) bool { return v == "1" })
}

// newAppPhone returns a phone that has booted.
func newAppPhone(t *testing.T, args ...string) *phone {
	t.Helper()
	p := newPhone(t, args...)
	p.display()
	p.booted()
	return p
}

// try runs a command with its input in the phone, by no shell, and returns what it prints, messages last, and its
// exit code.
func (p *phone) try(input []byte, args ...string) (string, int) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), p.runc, append([]string{"--root", p.root, "exec", p.id()}, args...)...)
	var out, messages bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &messages
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		p.t.Fatalf("%v: %v", args, err)
	}
	return out.String() + messages.String(), cmd.ProcessState.ExitCode()
}

// expect runs a command and compares what it prints, as a regular expression for all of it, and its exit code.
func (p *phone) expect(input []byte, want string, code int, args ...string) string {
	p.t.Helper()
	out, got := p.try(input, args...)
	if !regexp.MustCompile("^(?s:"+want+")$").MatchString(out) || got != code {
		p.t.Fatalf("%v prints %q and exits with %d, want %q and %d", args, out, got, want, code)
	}
	return out
}

func makeAPK(t *testing.T, app apkmake.App) []byte {
	t.Helper()
	key, err := apkmake.NewKey("test")
	if err != nil {
		t.Fatal(err)
	}
	if app.TargetSDK == 0 {
		app.MinSDK, app.TargetSDK = 24, 33
	}
	b, err := apkmake.Make(app, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// example is an app with the permission for the network.
func example(version int64) apkmake.App {
	return apkmake.App{
		Package: "com.example.app", VersionCode: version, VersionName: fmt.Sprint(version), Label: "Example",
		Activities: []string{".Main"}, Permissions: []string{"android.permission.INTERNET"},
	}
}

func (p *phone) install(app apkmake.App) {
	p.t.Helper()
	apk := makeAPK(p.t, app)
	p.expect(apk, "Success\n", 0, "pm", "install", "-S", strconv.Itoa(len(apk)))
}

// running is a process of the phone, as /proc shows it outside.
type running struct {
	pid  int // outside
	name string
	uids string // real, effective, saved, file system
	gids string
	// groups are the supplementary ones.
	groups string
	group  int // process group, inside
	inside int
	parent int
}

// processes lists those whose command line is a name and nothing else.
func (p *phone) processes(name string) []running {
	p.t.Helper()
	var list []running
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		p.t.Fatal(err)
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, dir := range dirs {
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || string(cmdline) != name+"\x00" {
			continue
		}
		if ns, err := os.Readlink(filepath.Join(dir, "ns/pid")); err != nil || ns != namespace {
			continue
		}
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue
		}
		r := running{name: name}
		r.pid, _ = strconv.Atoi(filepath.Base(dir))
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			value = strings.Join(strings.Fields(value), " ")
			last := value[strings.LastIndex(value, " ")+1:]
			switch key {
			case "Uid":
				r.uids = value
			case "Gid":
				r.gids = value
			case "Groups":
				r.groups = value
			case "NSpid":
				r.inside, _ = strconv.Atoi(last)
			case "NSpgid":
				r.group, _ = strconv.Atoi(last)
			case "PPid":
				r.parent, _ = strconv.Atoi(value)
			}
		}
		list = append(list, r)
	}
	return list
}

func (p *phone) process(name string) running {
	p.t.Helper()
	list := p.processes(name)
	if len(list) != 1 {
		p.t.Fatalf("%d processes are named %s", len(list), name)
	}
	return list[0]
}

func same(id int) string { return fmt.Sprintf("%d %d %d %d", id, id, id, id) }

func (p *phone) packagesList() string {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.data, "system/packages.list"))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}
