package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

// program builds the command, for a test that starts machines with it.
func program(t *testing.T) string {
	t.Helper()
	if os.Getenv("PHONEHOST_TEST_VM") == "" {
		t.Skip("machines are started only by make test-vm, or where PHONEHOST_TEST_VM is subset or all")
	}
	for _, name := range []string{"qemu-system-x86_64", "qemu-system-aarch64", "qemu-img", "mke2fs", "dpkg-deb"} {
		if _, err := host.Look(name); err != nil {
			testenv.Missing(t, "vm", err.Error())
		}
	}
	return testenv.Binary(t, "scripts/vm/cmd/vm")
}

// machines are those in which the tests of shells have one, as flags: of each kind one, every one under make test-vm-all.
func machines() map[string][]string {
	some := map[string][]string{"kernel-amd64": {"--arch=amd64", "--kind=kernel"}, "system-arm64": {"--arch=arm64"}}
	if os.Getenv("PHONEHOST_TEST_VM") == "all" {
		some["kernel-arm64"], some["system-amd64"] = []string{"--arch=arm64", "--kind=kernel"}, []string{"--arch=amd64"}
	}
	return some
}

// TestVMShellStreams runs a command without a terminal: its streams and its exit code are those of the program here.
func TestVMShellStreams(t *testing.T) {
	vm := program(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("put there"), 0o640); err != nil {
		t.Fatal(err)
	}
	for name, flags := range machines() {
		t.Run(name, func(t *testing.T) {
			script := `cat; echo; cd /; cd; pwd; cat /tmp/x/file; echo; stat -c %a /tmp/x/file; test -t 0 || echo no terminal; echo "for stderr" >&2; exit 3`
			cmd := exec.CommandContext(t.Context(), vm, append(append([]string{"shell", "--put=" + file + ":/tmp/x/"}, flags...), "--", "sh", "-c", script)...)
			var out, errs bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("from stdin"), &out, &errs
			err := cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != 3 {
				t.Errorf("exit code %d, %v, want 3", code, err)
			}
			if want := "from stdin\n/root\nput there\n640\nno terminal\n"; out.String() != want {
				t.Errorf("stdout is %q, want %q", &out, want)
			}
			if !strings.Contains(errs.String(), "for stderr\n") {
				t.Errorf("stderr is %q", &errs)
			}
		})
	}
	t.Run("script", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), vm, "shell", "--kind=kernel", "--variant=nopsi")
		cmd.Stdin = strings.NewReader("cat /proc/cmdline\nkill -9 $$\n")
		out, err := cmd.Output()
		if code := cmd.ProcessState.ExitCode(); code != 137 || !strings.Contains(string(out), "psi=0") {
			t.Errorf("exit code %d, %v, want 137; the command line is %q", code, err, out)
		}
	})
}

// TestVMShellPrograms brings the programs and installs them by hand.
func TestVMShellPrograms(t *testing.T) {
	vm := program(t)
	for _, tt := range []struct {
		name, script string
		flags        []string
	}{
		{"kernel", "phonehostd version && phone-log version && phonectl --help > /dev/null && test -s /run/payload/bin/testphone.tar && ! which phone-display", []string{"--kind=kernel", "--arch=arm64"}},
		{"system", `BIN=/run/payload/bin /run/payload/src/scripts/systemd/install
			sed -i 's/^disk_reserve_bytes.*/disk_reserve_bytes = 0/; s/^enabled = .*/enabled = false/' /etc/phonehost/phonehostd.toml
			systemctl start phonehostd && phonectl host && which phonectl phone-display && phonectl image import /run/payload/bin/testphone.tar
			phone-display libraries`, []string{"--arch=arm64"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), vm, append(append([]string{"shell", "--programs"}, tt.flags...), "--", "sh", "-ec", tt.script)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			} else if tt.name == "system" && (!strings.Contains(string(out), "/usr/local/bin/phonectl\n/usr/local/bin/phone-display\n") || !strings.Contains(string(out), "libavcodec.so")) {
				t.Errorf("what was brought comes before what was installed, or phone-display finds no encoder:\n%s", out)
			}
		})
	}
}

// TestVMShellTerminal works at a terminal, as a person does.
func TestVMShellTerminal(t *testing.T) {
	vm := program(t)
	for name, flags := range machines() {
		t.Run(name, func(t *testing.T) {
			c := openConsole(t, 24, 80)
			before := c.modes()
			c.start(vm, append([]string{"shell"}, flags...)...)
			c.expect("ends with this shell")
			c.enter("stty size", "24 80\r\n")
			c.enter("echo $((6*7))", "42\r\n")
			if c.modes() == before {
				t.Error("this side's terminal reads lines by itself")
			}
			c.resize(40, 100)
			c.enter(`until [ "$(stty size)" = "40 100" ]; do sleep 0.1; done; echo re''sized`, "resized")
			// What tells that it waits is the one that the key is for: a shell between two commands takes it for itself.
			c.enter(`sh -c "echo wait''ing; exec sleep 1000"`, "waiting")
			c.write("\x03")
			c.enter("echo code $?", "code 130")
			c.write("exit 3\r")
			if code := c.wait(); code != 3 {
				t.Errorf("exit code %d, want 3", code)
			}
			if after := c.modes(); after != before {
				t.Errorf("the terminal was left otherwise than it was: %+v, want %+v", after, before)
			}
		})
	}
	t.Run("command", func(t *testing.T) {
		c := openConsole(t, 24, 80)
		c.start(vm, "shell", "--kind=kernel", "--", "sh", "-c", "test -t 0 && test -t 1 && tty; exit 4")
		c.expect("/dev/pts/")
		if code := c.wait(); code != 4 {
			t.Errorf("exit code %d, want 4", code)
		}
	})
}

// TestVMShellEnds ends the program in every way but the shell's end, and finds nothing left of the machine.
func TestVMShellEnds(t *testing.T) {
	vm := program(t)
	for _, tt := range []struct {
		name  string
		flags []string
		shell bool // wait for the shell
		end   func(c *console)
	}{
		{"Ctrl-C before the shell", []string{"--fresh"}, false, func(c *console) { c.write("\x03") }},
		{"SIGTERM before the shell", []string{"--fresh", "--kind=kernel"}, false, func(c *console) { c.signal(unix.SIGTERM) }},
		{"SIGTERM", nil, true, func(c *console) { c.signal(unix.SIGTERM) }},
		{"SIGHUP", []string{"--kind=kernel"}, true, func(c *console) { c.hangUp() }},
		{"poweroff", nil, true, func(c *console) { c.write("poweroff\r") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := openConsole(t, 24, 80)
			before := c.modes()
			c.start(vm, append([]string{"shell"}, tt.flags...)...)
			if tt.shell {
				c.expect("ends with this shell")
				c.enter("echo rea''dy", "ready")
			}
			qemu, dir := c.machine()
			tt.end(c)
			// A machine that powers off may kill the shell first, and say so.
			if code := c.wait(); code != 1 && (tt.name != "poweroff" || code != 128+int(unix.SIGKILL) && code != 128+int(unix.SIGHUP)) {
				t.Errorf("exit code %d, want 1", code)
			}
			if n, err := unix.Poll([]unix.PollFd{{Fd: int32(qemu), Events: unix.POLLIN}}, 0); n != 1 {
				t.Errorf("QEMU lives on: %v", err)
			}
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("directory %s is left: %v", dir, err)
			}
			if !c.hungUp && c.modes() != before {
				t.Error("the terminal was left otherwise than it was")
			}
		})
	}
}
