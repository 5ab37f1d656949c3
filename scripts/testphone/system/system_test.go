package system

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
	"github.com/phonehost/phonehost/scripts/testphone/app"
	"github.com/phonehost/phonehost/scripts/testphone/zygote"
)

// TestMain makes the test binary what the zygote starts: app_process, and an app.
func TestMain(m *testing.M) {
	if name := os.Getenv(zygote.AppEnv); name != "" {
		if err := app.Run(context.Background(), name, os.NewFile(zygote.Link, "link")); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// phone is a system server over a directory, without root. Nobody starts processes there.
type phone struct {
	t      *testing.T
	root   string
	socket string
}

func newPhone(t *testing.T) *phone {
	t.Helper()
	p := &phone{t: t, root: t.TempDir()}
	dir, err := os.MkdirTemp("", "system-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	p.socket = filepath.Join(dir, "system")
	for _, dir := range []string{"data/app", "data/data", "data/user", "data/system", "system/app/Launcher"} {
		if err := os.MkdirAll(filepath.Join(p.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(p.root, "system/app/Launcher/Launcher.apk"), p.apk(apkmake.App{Package: "com.android.launcher", VersionCode: 1}), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, served := make(chan struct{}), make(chan error, 1)
	go func() {
		served <- Serve(ctx, Config{
			Root: p.root, Socket: p.socket, Zygote: filepath.Join(dir, "zygote"), SDK: 34, ABIs: []string{"arm64-v8a"},
			Chown: func(string, int, int) error { return nil }, Printf: t.Logf,
			Ready: func(context.Context) error { close(ready); return nil },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	select {
	case <-ready:
	case err := <-served:
		served <- err
		t.Fatal(err)
	}
	return p
}

func (p *phone) apk(a apkmake.App) []byte {
	p.t.Helper()
	key, err := apkmake.NewKey("test")
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := apkmake.Make(a, key)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// run runs a command line with an input.
func (p *phone) run(input []byte, line string) (out, messages string, code int) {
	p.t.Helper()
	words := strings.Fields(line)
	var o, e bytes.Buffer
	service := map[string]string{"pm": "package", "am": "activity"}[words[0]]
	if words[0] == "cmd" {
		service, words = words[1], words[1:]
	}
	code, err := Call(p.t.Context(), p.socket, service, words[1:], bytes.NewReader(input), &o, &e)
	if err != nil {
		p.t.Fatalf("%s: %v", line, err)
	}
	return o.String(), e.String(), code
}

// says compares what a command prints, all of it, and its exit code.
func (p *phone) says(input []byte, line, want, wantErr string, wantCode int) string {
	p.t.Helper()
	out, messages, code := p.run(input, line)
	if !regexp.MustCompile("^(?s:"+want+")$").MatchString(out) || !regexp.MustCompile("^(?s:"+wantErr+")$").MatchString(messages) || code != wantCode {
		p.t.Errorf("%s: prints %q and %q, exit code %d; want %q and %q, %d", line, out, messages, code, want, wantErr, wantCode)
	}
	return out
}

func size(b []byte) string { return " " + strconv.Itoa(len(b)) + " " }

func TestPackageCommands(t *testing.T) {
	p := newPhone(t)
	one := p.apk(apkmake.App{Package: "com.one", VersionCode: 1, Activities: []string{".Main"}})
	two := p.apk(apkmake.App{Package: "com.one", VersionCode: 2, Activities: []string{".Main"}})
	base, split := p.apk(apkmake.App{Package: "com.two", VersionCode: 1}), p.apk(apkmake.App{Package: "com.two", VersionCode: 1, Split: "config.de"})
	file := filepath.Join(t.TempDir(), "three.apk")
	if err := os.WriteFile(file, p.apk(apkmake.App{Package: "com.three", VersionCode: 3}), 0o600); err != nil {
		t.Fatal(err)
	}
	id := func(out string) string { return regexp.MustCompile(`\[(\d+)\]`).FindStringSubmatch(out)[1] }

	p.says(one, "pm install -S"+size(one), "Success\n", "", 0)
	p.says(one, "cmd package install -r -S"+size(one)+"-", "Success\n", "", 0)
	p.says(one, "pm install -R -S"+size(one), `Failure \[INSTALL_FAILED_ALREADY_EXISTS: Attempt to re-install com.one without first uninstalling.\]\n`, "", 1)
	p.says(two, "pm install -S"+size(two), "Success\n", "", 0)
	p.says(one, "pm install -S"+size(one), `Failure \[INSTALL_FAILED_VERSION_DOWNGRADE: Downgrade detected: Update version code 1 is older than current 2\]\n`, "", 1)
	p.says(one, "pm install -d -S"+size(one), "Success\n", "", 0)
	p.says([]byte("hello"), "pm install -S 5", `Failure \[INSTALL_PARSE_FAILED_NOT_APK: .*\]\n`, "", 1)
	p.says(one[:100], "pm install -S"+size(one), "", "Error: failed to write; .*", 1)
	p.says(nil, "pm install", "", "Error: must either specify a package size or an APK file\n", 1)
	p.says(nil, "pm install -S", "", `\nException occurred while executing 'install':\njava.lang.IllegalArgumentException: Argument expected after "-S"\n`, 255)
	p.says(nil, "pm install --nonsense", "", `.*IllegalArgumentException: Unknown option --nonsense\n`, 255)
	p.says(nil, "pm install -S 1152921504606846976", "", ".*java.io.IOException: Requested internal only, but not enough space\n", 255)
	p.says(nil, "pm install "+file, "Success\n", "", 0)
	p.says(nil, "pm install /none.apk", "", "Error: Unable to open file: /none.apk\n.*", 1)

	session := id(p.says(nil, "pm install-create -r -S 100", `Success: created install session \[\d+\]\n`, "", 0))
	p.says(base, "pm install-write -S"+size(base)+session+" base.apk -", "Success: streamed "+strconv.Itoa(len(base))+" bytes\n", "", 0)
	p.says(split, "pm install-write -S"+size(split)+session+" split", "Success: streamed .*", "", 0)
	p.says(split, "pm install-write "+session+" split", "", "Error: must specify an APK size\n", 1)
	p.says(split, "pm install-write -S 1 "+session+" ../x", "", ".*IllegalArgumentException: Invalid name: ../x\n", 255)
	p.says(nil, "pm install-commit "+session, "Success\n", "", 0)
	p.says(nil, "pm install-commit "+session, "", ".*java.lang.SecurityException: Caller has no access to session "+session+"\n", 255)
	session = id(p.says(nil, "pm install-create", "Success.*", "", 0))
	p.says(nil, "pm install-abandon "+session, "Success\n", "", 0)
	p.says(nil, "pm install-abandon "+session, "", ".*SecurityException.*", 255)
	p.says(one, "pm install-write -S 1 "+session+" x", "", ".*SecurityException.*", 255)
	p.says(nil, "pm install-commit x", "", `.*java.lang.NumberFormatException: For input string: "x"\n`, 255)
	session = id(p.says(nil, "pm install-create", "Success.*", "", 0))
	p.says(nil, "pm install-commit "+session, `Failure \[INSTALL_FAILED_INVALID_APK: No packages staged\]\n`, "", 1)

	p.says(nil, "pm path com.two", "package:/data/app/~~.*==/com.two-.*==/base.apk\npackage:/data/app/.*/split_config.de.apk\n", "", 0)
	p.says(nil, "pm path com.none", "", "", 1)
	p.says(nil, "pm list packages", "package:com.android.launcher\npackage:com.one\npackage:com.three\npackage:com.two\n", "", 0)
	p.says(nil, "pm list packages -s -U", "package:com.android.launcher uid:10000\n", "", 0)
	p.says(nil, "pm list packages -3 -i t", "package:com.three  installer=null\npackage:com.two  installer=null\n", "", 0)
	p.says(nil, "pm list packages -f --show-versioncode -U one", `package:/data/app/~~.*==/com.one-.*==/base.apk=com.one versionCode:1 uid:10001\n`, "", 0)
	p.says(nil, "pm list packages --nonsense", "", "Error: Unknown option: --nonsense\n", 255)
	p.says(nil, "pm list", "", "Error: didn't specify type of data to list\n", 255)
	p.says(nil, "pm list users", "Users:\n\tUserInfo{0:Owner:c13} running\n", "", 0)

	p.says(nil, "pm disable-user com.one", "Package com.one new state: disabled-user\n", "", 0)
	p.says(nil, "pm list packages -d", "package:com.one\n", "", 0)
	p.says(nil, "am start com.one", "Starting: .*", "Error: Activity not started, unable to resolve Intent .*\n", 1)
	p.says(nil, "pm enable com.one", "Package com.one new state: enabled\n", "", 0)
	p.says(nil, "pm suspend com.one", "Package com.one new suspended state: true\n", "", 0)
	p.says(nil, "am start -W com.one", "Starting: .*Status: ok\n.*Activity: android/com.android.internal.app.SuspendedAppActivity\n.*", "", 0)
	p.says(nil, "pm unsuspend com.one", "Package com.one new suspended state: false\n", "", 0)
	p.says(nil, "pm suspend com.none", "", ".*IllegalArgumentException: Unknown package: com.none\n", 255)
	p.says(nil, "pm clear com.one", "Success\n", "", 0)
	p.says(nil, "pm clear com.none", "", "Failed\n", 1)
	p.says(nil, "cmd package resolve-activity --brief com.one", "priority=0 .*\ncom.one/.Main\n", "", 0)
	p.says(nil, "cmd package resolve-activity --brief com.two", "No activity found\n", "", 0)

	p.says(nil, "pm uninstall com.one", "Success\n", "", 0)
	p.says(nil, "pm uninstall com.one", `Failure \[DELETE_FAILED_INTERNAL_ERROR\]\n`, "", 1)
	p.says(nil, "pm uninstall --user 0 com.one", `Failure \[not installed for 0\]\n`, "", 1)
	p.says(nil, "pm uninstall com.android.launcher", `Failure \[DELETE_FAILED_INTERNAL_ERROR\]\n`, "", 1)
	p.says(nil, "pm uninstall", "", "Error: package name not specified\n", 1)
	p.says(nil, "pm nonsense", "", "Unknown command: nonsense\n", 255)
	p.says(nil, "cmd nonsense x", "", "cmd: Can't find service: nonsense\n", 20)
	if entries, err := filepath.Glob(filepath.Join(p.root, "data/app/vmdl*")); len(entries) != 0 || err != nil {
		t.Errorf("sessions are left: %v, %v", entries, err)
	}
}

// TestActivityCommands asks without a zygote.
func TestActivityCommands(t *testing.T) {
	p := newPhone(t)
	one := p.apk(apkmake.App{Package: "com.one", VersionCode: 1, Activities: []string{".Main", "org.other.Second"}})
	p.says(one, "pm install -S"+size(one), "Success\n", "", 0)
	const noZygote = "Error: Activity not started: process com.one: zygote: .*no such file.*\n"
	p.says(nil, "am start com.one", `Starting: Intent { act=android.intent.action.MAIN cat=\[android.intent.category.LAUNCHER\] pkg=com.one }\n`, noZygote, 1)
	p.says(nil, "am start -n com.one/org.other.Second -d http://x --es a b", `Starting: Intent { dat=http://x cmp=com.one/org.other.Second \(has extras\) }\n`, noZygote, 1)
	p.says(nil, "am start com.one/.Main", `Starting: Intent { cmp=com.one/.Main }\n`, noZygote, 1)
	p.says(nil, "am start -n com.one/.None", "Starting: .*", "Error type 3\nError: Activity class {com.one/com.one.None} does not exist.\n", 1)
	p.says(nil, "am start -n com.none/.Main", "Starting: .*", "Error type 3\nError: Activity class {com.none/com.none.Main} does not exist.\n", 1)
	p.says(nil, "am start com.none", "Starting: .*", "Error: Activity not started, unable to resolve Intent .*\n", 1)
	p.says(nil, "am start -n nonsense", "", ".*IllegalArgumentException: Bad component name: nonsense\n", 255)
	p.says(nil, "am start", "", ".*IllegalArgumentException: No intent supplied\n", 255)
	p.says(nil, "am start --user 11 com.one", "", ".*IllegalArgumentException: User 11 doesn't exist\n", 255)
	p.says(nil, "am start --ei n x com.one", "", ".*NumberFormatException.*", 255)
	p.says(nil, "am start-service -n com.one/.None", "Starting service: .*", "Error: Not found; no service started.\n", 255)
	p.says(nil, "am broadcast -n com.one/.None", "Broadcasting: .*\nBroadcast completed: result=0\n", "", 0)
	p.says(nil, "am force-stop com.none", "", "", 0)
	p.says(nil, "am get-current-user", "0\n", "", 0)
}

// TestCallerGoesAway ends a caller in the middle of what it streams: the session goes.
func TestCallerGoesAway(t *testing.T) {
	p := newPhone(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	called := make(chan error, 1)
	go func() {
		_, err := Call(ctx, p.socket, "package", []string{"install", "-S", "1000000"}, r, io.Discard, io.Discard)
		called <- err
	}()
	if _, err := w.Write(make([]byte, 100_000)); err != nil { // more than the pipe holds, so some has been taken
		t.Fatal(err)
	}
	cancel()
	if err := <-called; !errors.Is(err, context.Canceled) {
		t.Errorf("the call: %v", err)
	}
	// The server is done with it when the pipe has no other reader: then a write fails once r is closed.
	r.Close()
	for err = nil; err == nil; {
		_, err = w.Write(make([]byte, 1))
	}
	for entries := []string{""}; len(entries) != 0; {
		if entries, err = filepath.Glob(filepath.Join(p.root, "data/app/vmdl*")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCallWithoutServer(t *testing.T) {
	if _, err := Call(t.Context(), filepath.Join(t.TempDir(), "none"), "package", nil, nil, nil, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("Call = %v", err)
	}
}
