package image

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/encoder/screen"
	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestFirstBootHasTheImagesPackages(t *testing.T) {
	p := newAppPhone(t)
	want := `com.android.launcher3 10000 0 /data/user/0/com.android.launcher3 platform:targetSdkVersion=34 none 0 34 1 @system
com.android.settings 1000 0 /data/user/0/com.android.settings platform:privapp:targetSdkVersion=34 3003 0 34 1 @system
com.android.systemui 10001 0 /data/user/0/com.android.systemui platform:privapp:targetSdkVersion=34 3003 0 34 1 @system
`
	got := p.packagesList()
	if swapped := strings.NewReplacer("10000", "10001", "10001", "10000").Replace(want); got != want && got != swapped {
		t.Errorf("packages.list is\n%s", got)
	}
	info, err := os.Stat(filepath.Join(p.data, "system/packages.list"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o640 || st.Uid != 1000 || st.Gid != 1032 {
		t.Errorf("packages.list: %v, of %d:%d", info.Mode(), st.Uid, st.Gid)
	}
	if link, err := os.Readlink(filepath.Join(p.data, "user/0")); link != "../data" || err != nil {
		t.Errorf("/data/user/0 is %q, %v", link, err)
	}
	zygote := p.sh("getprop init.svc_debug_pid.zygote")
	for _, name := range []string{"com.android.launcher3", "com.android.systemui"} {
		r := p.process(name)
		uid := strings.Fields(got[strings.Index(got, name):])[1]
		if n, _ := strconv.Atoi(uid); r.uids != same(n) || r.gids != same(n) || r.group != r.inside {
			t.Errorf("%s: %+v, want uid %s", name, r, uid)
		}
		if parent := p.sh("ps | grep '[ /]" + name + "$'"); strings.Fields(parent)[2] != zygote {
			t.Errorf("the parent of %s is not the zygote %s: %s", name, zygote, parent)
		}
	}
	p.ask("shutdown")
	if code := p.exits(); code != 130 {
		t.Errorf("exit code %d", code)
	}
}

// TestAppLife installs, starts, updates, stops and removes an app.
func TestAppLife(t *testing.T) {
	p := newAppPhone(t)
	p.install(example(3))
	line := regexp.MustCompile(`(?m)^com\.example\.app (\d+) 0 /data/user/0/com\.example\.app default:targetSdkVersion=33 3003 0 3 1 @null$`).FindStringSubmatch(p.packagesList())
	if line == nil {
		t.Fatalf("packages.list is\n%s", p.packagesList())
	}
	uid, _ := strconv.Atoi(line[1])
	if uid != 10002 {
		t.Errorf("the uid is %d", uid)
	}
	dir := regexp.MustCompile(`^package:(/data/app/~~[\w-]{22}==/com\.example\.app-[\w-]{22}==)/base\.apk\n$`)
	first := dir.FindStringSubmatch(p.expect(nil, ".*", 0, "pm", "path", "com.example.app"))
	if first == nil {
		t.Fatal("the app is not where Android puts it")
	}
	p.expect(nil, "package:"+regexp.QuoteMeta(first[1])+"/base.apk=com.example.app versionCode:3 uid:10002\n", 0,
		"pm", "list", "packages", "-3", "-f", "-U", "--show-versioncode")
	info, err := os.Stat(filepath.Join(p.data, "data/com.example.app"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o700 || int(st.Uid) != uid || int(st.Gid) != uid {
		t.Errorf("the data directory: %v, of %d:%d", info.Mode(), st.Uid, st.Gid)
	}

	p.expect(nil, `Starting: Intent { act=android.intent.action.MAIN cat=\[android.intent.category.LAUNCHER\] pkg=com.example.app }\n`, 0, "am", "start", "com.example.app")
	r := p.process("com.example.app")
	if r.uids != same(uid) || r.gids != same(uid) || r.group != r.inside || r.groups != "3003 9997 20002 50002" {
		t.Errorf("the app's process: %+v", r)
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", r.pid)); string(comm) != "com.example.app\n" || err != nil {
		t.Errorf("the app's thread is %q, %v", comm, err)
	}
	p.expect(nil, fmt.Sprintf("%d\n", r.inside), 0, "pidof", "com.example.app")
	p.expect(nil, `Starting: Intent { cmp=com.example.app/.Main }
Warning: Activity not started, intent has been delivered to currently running top-most instance.
`, 0, "am", "start", "-n", "com.example.app/.Main")
	if again := p.process("com.example.app"); again.pid != r.pid {
		t.Error("a second start made a second process")
	}

	p.install(example(4))
	if list := p.processes("com.example.app"); len(list) != 0 {
		t.Errorf("the update left the app running: %+v", list)
	}
	second := dir.FindStringSubmatch(p.expect(nil, ".*", 0, "pm", "path", "com.example.app"))
	if second == nil || second[1] == first[1] {
		t.Errorf("the update is at %v, and was at %v", second, first)
	}
	if _, err := os.Stat(filepath.Join(p.data, strings.TrimPrefix(filepath.Dir(first[1]), "/data"))); !os.IsNotExist(err) {
		t.Errorf("the old code is still there: %v", err)
	}
	if !strings.Contains(p.packagesList(), "com.example.app 10002 ") {
		t.Errorf("the update changed the uid:\n%s", p.packagesList())
	}

	p.expect(nil, `Starting: Intent { cmp=com.example.app/.Main }\nStatus: ok\nLaunchState: COLD\nActivity: com.example.app/.Main\nTotalTime: \d+\nWaitTime: \d+\nComplete\n`, 0,
		"am", "start", "-W", "-n", "com.example.app/.Main")
	p.expect(nil, "", 0, "am", "force-stop", "com.example.app")
	if list := p.processes("com.example.app"); len(list) != 0 {
		t.Errorf("force-stop left %+v", list)
	}
	p.expect(nil, "Success\n", 0, "pm", "uninstall", "com.example.app")
	if strings.Contains(p.packagesList(), "com.example.app") {
		t.Error("packages.list still has the app")
	}
	for _, dir := range []string{"app", "data/com.example.app"} {
		if entries, err := os.ReadDir(filepath.Join(p.data, dir)); len(entries) != 0 && err == nil {
			t.Errorf("%s still has %v", dir, entries)
		}
	}
	p.ask("shutdown")
	p.exits()
}

// TestRealApps installs APKs that people ship, one of them in 18 MB, and starts one.
func TestRealApps(t *testing.T) {
	p := newAppPhone(t)
	for _, name := range []string{
		"io.appium.settings-2.14.2/settings_apk-debug.apk", "android-apidemos-5.0.0/ApiDemos-debug.apk", "appium-uiautomator2-server-10.6.6/appium-uiautomator2-server-v10.6.6.apk",
	} {
		b, err := os.ReadFile(testenv.APK(t, name))
		if err != nil {
			t.Fatal(err)
		}
		p.expect(b, "Success\n", 0, "pm", "install", "-S", strconv.Itoa(len(b)))
	}
	p.expect(nil, "package:io.appium.android.apis versionCode:25\npackage:io.appium.settings versionCode:19\npackage:io.appium.uiautomator2.server versionCode:278\n", 0,
		"pm", "list", "packages", "-3", "--show-versioncode")
	if !strings.Contains(p.packagesList(), "io.appium.settings 10002 1 /data/user/0/io.appium.settings default:targetSdkVersion=28 3003 0 19 1 @null\n") {
		t.Errorf("packages.list is\n%s", p.packagesList())
	}
	p.expect(nil, "Starting: .*", 0, "am", "start", "io.appium.settings")
	if r := p.process("io.appium.settings"); r.uids != same(10002) {
		t.Errorf("the app's process: %+v", r)
	}
	p.expect(nil, "Starting: .*Activity: io.appium.android.apis/.ApiDemos\n.*", 0, "am", "start", "-W", "-n", "io.appium.android.apis/.ApiDemos")
	p.ask("shutdown")
	p.exits()
}

// TestLaunchIsDenied takes from the phone what setresuid needs. The child ends by SIGABRT, the zygote lives, and the caller is told.
func TestLaunchIsDenied(t *testing.T) {
	p := newPhone(t)
	p.caps = slices.DeleteFunc(p.caps, func(c string) bool { return c == "CAP_SETUID" })
	p.display()
	p.boot()
	p.line("(com.android.launcher3) exited due to signal 6 (ABRT)")
	p.await("sys.boot_completed", func(v string) bool { return v == "1" })
	zygote := p.sh("getprop init.svc_debug_pid.zygote")
	p.install(example(1))
	p.expect(nil, `Starting: Intent { cmp=com.example.app/.Main }
Error: Activity not started: process com.example.app ended before it began: setresuid 10002: operation not permitted
`, 1, "am", "start", "-n", "com.example.app/.Main")
	p.line("(com.example.app) exited due to signal 6 (ABRT)")
	if got := p.sh("getprop init.svc_debug_pid.zygote"); got != zygote {
		t.Errorf("the zygote was %s and is %s", zygote, got)
	}
	p.ask("shutdown")
	p.exits()
}

// TestBootsWithoutCapabilities has a phone that can start no app.
func TestBootsWithoutCapabilities(t *testing.T) {
	p := newPhone(t)
	p.caps = nil
	p.display()
	p.booted()
	p.expect(nil, "package:com.android.settings uid:1000\n", 0, "pm", "list", "packages", "-U", "settings")
	p.expect(nil, "Starting: .*Error: Activity not started: .* setgroups .*: operation not permitted\n", 1, "am", "start", "com.android.settings")
	p.ask("shutdown")
	if code := p.exits(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestUsersServicesAndIsolated looks at the uids of a second user, and of processes beside an app's main one.
func TestUsersServicesAndIsolated(t *testing.T) {
	p := newAppPhone(t)
	p.install(example(1))
	p.expect(nil, "Success: created user id 10\n", 0, "pm", "create-user", "second")
	p.expect(nil, "package:com.example.app uid:10002,1010002\n", 0, "pm", "list", "packages", "-3", "-U")
	p.expect(nil, "Starting: .*", 0, "am", "start", "--user", "10", "-n", "com.example.app/.Main")
	if r := p.process("com.example.app"); r.uids != same(1010002) || r.groups != "3003 50002 1009997 1020002" {
		t.Errorf("the second user's process: %+v", r)
	}
	p.expect(nil, "Starting: .*", 0, "am", "start", "-n", "com.example.app/.Main")
	if list := p.processes("com.example.app"); len(list) != 2 {
		t.Errorf("%d processes for two users", len(list))
	}
	if info, err := os.Stat(filepath.Join(p.data, "user/10/com.example.app")); err != nil || info.Sys().(*syscall.Stat_t).Uid != 1010002 {
		t.Errorf("the second user's data: %v", err)
	}
	p.expect(nil, `Starting service: Intent { cmp=com.example.app/.Worker }\n`, 0, "am", "start-service", "-n", "com.example.app/.Worker")
	if r := p.process("com.example.app:worker"); r.uids != same(10002) {
		t.Errorf("the service: %+v", r)
	}
	p.expect(nil, "Starting service: .*", 0, "am", "start-service", "-n", "com.example.app/.Isolated")
	if r := p.process("com.example.app:isolated"); r.uids != same(99000) || r.gids != same(99000) || r.groups != "9997" {
		t.Errorf("the isolated process: %+v", r)
	}
	p.expect(nil, "Starting service: .*", 0, "am", "start-service", "--user", "10", "-n", "com.example.app/.Isolated")
	if list := p.processes("com.example.app:isolated"); len(list) != 2 || list[1].uids != same(1099001) && list[0].uids != same(1099001) {
		t.Errorf("isolated processes: %+v", list)
	}
	p.expect(nil, "", 0, "am", "force-stop", "--user", "10", "com.example.app")
	if r := p.process("com.example.app"); r.uids != same(10002) {
		t.Errorf("after the second user's stop: %+v", r)
	}
	p.expect(nil, "Success: removed user\n", 0, "pm", "remove-user", "10")
	p.expect(nil, "", 0, "am", "force-stop", "com.example.app")
	for _, name := range []string{"com.example.app", "com.example.app:worker", "com.example.app:isolated"} {
		if list := p.processes(name); len(list) != 0 {
			t.Errorf("force-stop left %+v", list)
		}
	}
	p.ask("shutdown")
	p.exits()
}

// TestAppUsesTheNetwork has an app connect to a server in the phone's network.
func TestAppUsesTheNetwork(t *testing.T) {
	p := newAppPhone(t)
	p.install(example(1))
	var l net.Listener
	p.inNetwork(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	defer l.Close()
	url := "tcp://" + l.Addr().String()
	answered := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			answered <- err.Error()
			return
		}
		defer conn.Close()
		b := make([]byte, 5)
		_, _ = conn.Read(b)
		_, _ = conn.Write([]byte("world\n"))
		answered <- string(b)
	}()
	p.expect(nil, `Broadcasting: Intent { cmp=com.example.app/.Net \(has extras\) }\nBroadcast completed: result=-1, data="world"\n`, 0,
		"am", "broadcast", "-n", "com.example.app/.Net", "--es", "url", url, "--es", "send", "hello", "--ei", "expect", "6")
	if got := <-answered; got != "hello" {
		t.Errorf("the server got %q", got)
	}
	p.expect(nil, "Starting: .*Complete\n", 0, "am", "start", "-W", "-n", "com.example.app/.Net", "--es", "url", url)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p.expect(nil, "", 0, "am", "force-stop", "com.example.app")
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the connection outlived the app: %d, %v", n, err)
	}
	conn.Close()
	l.Close()
	p.expect(nil, `.*Broadcast completed: result=0, data="dial tcp .*connection refused"\n`, 0,
		"am", "broadcast", "-n", "com.example.app/.Net", "--es", "url", url)
	p.ask("shutdown")
	p.exits()
}

// inNetwork calls f in the phone's network namespace.
func (p *phone) inNetwork(f func() error) {
	p.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never back: the thread ends with the goroutine
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid))
		if err == nil {
			defer ns.Close()
			if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		p.t.Fatal(err)
	}
}

// TestPowerCut cuts the power while an app is streamed in, with another one installed.
func TestPowerCut(t *testing.T) {
	p := newAppPhone(t)
	p.install(example(1))
	before := p.packagesList()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	id := regexp.MustCompile(`\[(\d+)\]`).FindStringSubmatch(p.expect(nil, `Success: created install session \[\d+\]\n`, 0, "pm", "install-create"))[1]
	cmd := exec.Command(p.runc, "--root", p.root, "exec", p.id(), "pm", "install-write", "-S", "1000000", id, "base.apk", "-")
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 100_000)); err != nil { // more than the pipe holds, so some has been taken
		t.Fatal(err)
	}
	staged := filepath.Join(p.data, "app/vmdl"+id+".tmp")
	if _, err := os.Stat(staged); err != nil {
		t.Fatal(err)
	}
	p.signal("KILL")
	_ = cmd.Wait()
	if code := p.exits(); code != 137 {
		t.Errorf("exit code %d", code)
	}
	// What an older boot left: code that was renamed into place, and no more.
	if err := os.MkdirAll(filepath.Join(p.data, "app/~~lost==/com.example.lost-x=="), 0o755); err != nil {
		t.Fatal(err)
	}
	p.booted()
	for _, path := range []string{staged, filepath.Join(p.data, "app/~~lost==")} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	if got := p.packagesList(); got != before {
		t.Errorf("packages.list was\n%sand is\n%s", before, got)
	}
	p.expect(nil, "Starting: .*", 0, "am", "start", "com.example.app")
	p.process("com.example.app")
	p.ask("shutdown")
	p.exits()
}

// TestAppsAreOnTheScreen compares the picture with and without an app.
func TestAppsAreOnTheScreen(t *testing.T) {
	p := newPhone(t, "androidboot.phonehost_width=360", "androidboot.phonehost_height=640")
	pixels := p.display()
	p.booted()
	p.install(example(1))
	p.sh("am start com.example.app")
	p.await("sys.testphone.apps", func(v string) bool { return v == "Example" })
	reader := pixels.NewReader()
	defer reader.Close()
	for found := false; !found; {
		reader.Read(func(screen.View) {})
		img := pixels.Snapshot()
		// The tile's colour, which nothing else has.
		want := map[[3]uint8]int{}
		for y := range 640 {
			for x := range 360 {
				c := img.RGBAAt(x, y)
				want[[3]uint8{c.R, c.G, c.B}]++
			}
		}
		for _, color := range [][3]uint8{{0x25, 0x63, 0xeb}, {0x7c, 0x3a, 0xed}, {0xdb, 0x27, 0x77}, {0xdc, 0x26, 0x26}, {0xd9, 0x77, 0x06}, {0x05, 0x96, 0x69}, {0x08, 0x91, 0xb2}, {0x4f, 0x46, 0xe5}} {
			found = found || want[color] > 500
		}
		if !found {
			if err := reader.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.ask("shutdown")
	p.exits()
}
