package packages

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

func TestUIDs(t *testing.T) {
	p := newPhone(t)
	system := p.uids()
	for _, name := range []string{"com.a", "com.b", "com.c"} {
		p.mustInstall(p.app(name, 1))
	}
	want := map[string]string{
		"com.android.launcher": system["com.android.launcher"], "com.android.systemui": system["com.android.systemui"],
		"com.a": "10002", "com.b": "10003", "com.c": "10004",
	}
	if diff := cmp.Diff(want, p.uids()); diff != "" {
		t.Error(diff)
	}
	if err := p.Uninstall("com.b", false); err != nil {
		t.Fatal(err)
	}
	p.mustInstall(p.app("com.a", 2)) // an update keeps it
	p.mustInstall(p.app("com.d", 1)) // one that was given back is not taken in this boot
	if got := p.uids(); got["com.a"] != "10002" || got["com.d"] != "10005" || got["com.b"] != "" {
		t.Errorf("uids %v", got)
	}
	p.open()
	p.mustInstall(p.app("com.e", 1)) // but in the next
	if got := p.uids()["com.e"]; got != "10003" {
		t.Errorf("after a boot a new package has %s", got)
	}
	if got := p.owners["/data/data/com.e"]; got != 10003 {
		t.Errorf("its data belongs to %d", got)
	}
}

func TestSharedUser(t *testing.T) {
	p := newPhone(t)
	shared := func(name, by string, user string) []byte {
		return p.apk(apkmake.App{Package: name, VersionCode: 1, SharedUserID: user}, by)
	}
	p.mustInstall(shared("com.a", "test", "com.shared"))
	p.mustInstall(shared("com.b", "test", "com.shared"))
	if got := p.uids(); got["com.a"] != got["com.b"] {
		t.Errorf("uids %v", got)
	}
	fails(t, p.install(Params{}, shared("com.c", "other", "com.shared")),
		"INSTALL_FAILED_SHARED_USER_INCOMPATIBLE: Package com.c has no signatures that match those in shared user com.shared; ignoring!")
	fails(t, p.install(Params{}, shared("com.c", "test", "android.uid.system")), "INSTALL_FAILED_SHARED_USER_INCOMPATIBLE: .*")
	fails(t, p.install(Params{}, shared("com.c", "test", "android.uid.systemui")), "INSTALL_FAILED_SHARED_USER_INCOMPATIBLE: .*")
	fails(t, p.install(Params{}, shared("com.a", "test", "com.other")), "INSTALL_FAILED_UID_CHANGED: Package com.a shared user changed from com.shared to com.other")
	if err := p.Uninstall("com.a", false); err != nil {
		t.Fatal(err)
	}
	p.mustInstall(p.app("com.d", 1))
	if got := p.uids(); got["com.d"] == got["com.b"] {
		t.Errorf("a shared uid was given to another: %v", got)
	}
}

func TestRefusals(t *testing.T) {
	p := newPhone(t)
	p.mustInstall(p.app("com.old", 5))
	damaged := p.apk(apkmake.App{Package: "com.new", Padding: 1000}, "test")
	damaged[bytes.Index(damaged, []byte("assets/padding"))+100] ^= 1
	split := func(name string, version int64, by string) []byte {
		return p.apk(apkmake.App{Package: "com.new", VersionCode: version, Split: name}, by)
	}
	base := p.apk(apkmake.App{Package: "com.new", VersionCode: 1}, "test")
	for name, test := range map[string]struct {
		params Params
		apks   [][]byte
		want   string
	}{
		"nothing":       {Params{}, nil, "INSTALL_FAILED_INVALID_APK: No packages staged"},
		"text":          {Params{}, [][]byte{[]byte("hello")}, `INSTALL_PARSE_FAILED_NOT_APK: Failed to parse /data/app/vmdl\d+\.tmp/0\.apk: this is not an APK.*`},
		"damaged":       {Params{}, [][]byte{damaged}, "INSTALL_FAILED_INVALID_APK: .*assets/padding: zip: checksum error"},
		"not signed":    {Params{}, [][]byte{p.apk(apkmake.App{Package: "com.new"})}, "INSTALL_PARSE_FAILED_NO_CERTIFICATES: .*"},
		"exists":        {Params{NoReplace: true}, [][]byte{p.app("com.old", 6)}, "INSTALL_FAILED_ALREADY_EXISTS: Attempt to re-install com.old without first uninstalling."},
		"downgrade":     {Params{}, [][]byte{p.app("com.old", 4)}, "INSTALL_FAILED_VERSION_DOWNGRADE: Downgrade detected: Update version code 4 is older than current 5"},
		"other signer":  {Params{}, [][]byte{p.apk(apkmake.App{Package: "com.old", VersionCode: 6}, "other")}, "INSTALL_FAILED_UPDATE_INCOMPATIBLE: Existing package com.old signatures do not match newer version; ignoring!"},
		"newer android": {Params{}, [][]byte{p.apk(apkmake.App{Package: "com.new", MinSDK: 35}, "test")}, `INSTALL_FAILED_OLDER_SDK: .*Requires newer sdk version #35 \(current version is #34\)`},
		"test only":     {Params{}, [][]byte{p.apk(apkmake.App{Package: "com.new", TestOnly: true}, "test")}, "INSTALL_FAILED_TEST_ONLY: .*"},
		"processor":     {Params{}, [][]byte{p.apk(apkmake.App{Package: "com.new", ABIs: []string{"x86"}}, "test")}, "INSTALL_FAILED_NO_MATCHING_ABIS: Failed to extract native libraries, res=-113"},
		"no base":       {Params{}, [][]byte{split("a", 1, "test")}, "INSTALL_FAILED_INVALID_APK: Full install must include a base package"},
		"two bases":     {Params{}, [][]byte{base, base}, "INSTALL_FAILED_INVALID_APK: Split null was defined multiple times"},
		"split twice":   {Params{}, [][]byte{base, split("a", 1, "test"), split("a", 1, "test")}, "INSTALL_FAILED_INVALID_APK: Split a was defined multiple times"},
		"other version": {Params{}, [][]byte{base, split("a", 2, "test")}, "INSTALL_FAILED_INVALID_APK: 1.apk version code 2 inconsistent with 1"},
		"other package": {Params{}, [][]byte{base, p.app("com.else", 1)}, "INSTALL_FAILED_INVALID_APK: 1.apk package com.else inconsistent with com.new"},
		"other key":     {Params{}, [][]byte{base, split("a", 1, "other")}, "INSTALL_FAILED_INVALID_APK: 1.apk signatures are inconsistent"},
		"needs splits":  {Params{}, [][]byte{p.apk(apkmake.App{Package: "com.new", SplitRequired: true}, "test")}, "INSTALL_FAILED_MISSING_SPLIT: Missing split for com.new"},
	} {
		t.Run(name, func(t *testing.T) {
			before := p.file("data/system/packages.list")
			fails(t, p.install(test.params, test.apks...), test.want)
			entries, err := os.ReadDir(filepath.Join(p.root, "data/app"))
			if err != nil || len(entries) != 1 || p.file("data/system/packages.list") != before {
				t.Errorf("the refusal left %v, %v", entries, err)
			}
		})
	}
	for name, params := range map[string]Params{"com.old 4": {Downgrade: true}, "com.test 1": {TestOnly: true}} {
		var version int64
		var pkg string
		if _, err := fmt.Sscan(name, &pkg, &version); err != nil {
			t.Fatal(err)
		}
		if err := p.install(params, p.apk(apkmake.App{Package: pkg, VersionCode: version, TestOnly: params.TestOnly}, "test")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSplits(t *testing.T) {
	p := newPhone(t)
	p.mustInstall(
		p.apk(apkmake.App{Package: "com.a", Split: "config.de"}, "test"),
		p.apk(apkmake.App{Package: "com.a", ABIs: []string{"arm64-v8a"}, SplitRequired: true, Activities: []string{".Main"}}, "test"),
	)
	a, err := p.Get("com.a")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^/data/app/~~[\w-]{22}==/com\.a-[\w-]{22}==$`).MatchString(a.Dir) {
		t.Errorf("the code is in %s", a.Dir)
	}
	if want := []string{a.Dir + "/base.apk", a.Dir + "/split_config.de.apk"}; !slices.Equal(a.Files(), want) || !p.exists(want[0]) || !p.exists(want[1]) {
		t.Errorf("files %v", a.Files())
	}
	if a.Activity != "com.a.Main" {
		t.Errorf("activity %q", a.Activity)
	}
}

// TestSystemUpdate updates a package of the image, and takes the update away.
func TestSystemUpdate(t *testing.T) {
	p := newPhone(t)
	uid := p.uids()["com.android.launcher"]
	fails(t, p.Uninstall("com.android.launcher", false), "DELETE_FAILED_INTERNAL_ERROR")
	update := p.apk(apkmake.App{Package: "com.android.launcher", VersionCode: 11, TargetSDK: 34}, "platform")
	p.mustInstall(update)
	p.open()
	a, err := p.Get("com.android.launcher")
	if err != nil || !a.inData() || !a.System || a.VersionCode != 11 || p.uids()["com.android.launcher"] != uid {
		t.Errorf("after the update: %+v, %v", a, err)
	}
	if !strings.Contains(p.file("data/system/packages.list"), "com.android.launcher "+uid+" 0 /data/user/0/com.android.launcher platform:targetSdkVersion=34 none 0 11 1 @system\n") {
		t.Errorf("packages.list is\n%s", p.file("data/system/packages.list"))
	}
	if err := p.Uninstall("com.android.launcher", false); err != nil {
		t.Fatal(err)
	}
	a, err = p.Get("com.android.launcher")
	if err != nil || a.Dir != "/system/app/Launcher" || a.VersionCode != 10 || p.uids()["com.android.launcher"] != uid || !p.exists("data/data/com.android.launcher") {
		t.Errorf("after the uninstall: %+v, %v", a, err)
	}
	p.mustInstall(update)
	p.image("system/app/Launcher/Launcher.apk", apkmake.App{Package: "com.android.launcher", VersionCode: 12, TargetSDK: 34})
	p.open()
	if a, err = p.Get("com.android.launcher"); err != nil || a.inData() || a.VersionCode != 12 || p.uids()["com.android.launcher"] != uid {
		t.Errorf("after an image with a newer one: %+v, %v", a, err)
	}
	if entries, err := os.ReadDir(filepath.Join(p.root, "data/app")); len(entries) != 0 || err != nil {
		t.Errorf("the older update is still there: %v, %v", entries, err)
	}
	if err := os.RemoveAll(filepath.Join(p.root, "system/app/Launcher")); err != nil {
		t.Fatal(err)
	}
	p.open()
	if _, err := p.Get("com.android.launcher"); !errdefs.IsNotFound(err) || p.exists("data/data/com.android.launcher") {
		t.Errorf("after an image without it: %v", err)
	}
}

func TestUninstall(t *testing.T) {
	p := newPhone(t)
	p.mustInstall(p.app("com.a", 5))
	a, err := p.Get("com.a")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Uninstall("com.a", true); err != nil {
		t.Fatal(err)
	}
	if p.exists(filepath.Dir(a.Dir)) || !p.exists("data/data/com.a") || p.uids()["com.a"] != "" || !slices.Contains(p.stopped, "com.a") {
		t.Error("the code is still there, or the data is not, or it was not stopped")
	}
	p.open()
	if err := p.Uninstall("com.a", false); !errdefs.IsNotFound(err) {
		t.Errorf("a second uninstall: %v", err)
	}
	fails(t, p.install(Params{}, p.app("com.a", 4)), "INSTALL_FAILED_VERSION_DOWNGRADE: .*")
	p.mustInstall(p.app("com.a", 5))
	if got := p.uids()["com.a"]; got != fmt.Sprint(a.AppID) {
		t.Errorf("the uid was %d and is %s", a.AppID, got)
	}
	if err := p.Uninstall("com.a", false); err != nil || p.exists("data/data/com.a") {
		t.Errorf("the data is still there: %v", err)
	}
}

func TestSessions(t *testing.T) {
	p := newPhone(t)
	id, err := p.CreateSession(Params{Total: 1000})
	if err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("data/app/vmdl%d.tmp", id)
	for name, want := range map[string]func(error) bool{"": errdefs.IsInvalidArgument, "../x": errdefs.IsInvalidArgument, ".x": errdefs.IsInvalidArgument} {
		if err := p.Write(id, name, 1, strings.NewReader("x")); !want(err) {
			t.Errorf("file %q: %v", name, err)
		}
	}
	if err := p.Write(id, "short.apk", 10, strings.NewReader("12345")); !errors.Is(err, io.ErrUnexpectedEOF) || p.exists(dir+"/short.apk") {
		t.Errorf("what ended early: %v", err)
	}
	if err := p.Write(id, "long.apk", 3, strings.NewReader("12345")); err != nil || p.file(dir+"/long.apk") != "123" {
		t.Errorf("more than was said: %v", err)
	}
	if err := p.Abandon(id); err != nil || p.exists(dir) {
		t.Errorf("abandon: %v", err)
	}
	for what, err := range map[string]error{"abandon": p.Abandon(id), "write": p.Write(id, "a", 1, strings.NewReader("x"))} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("%s after the end: %v", what, err)
		}
	}
	if _, err := p.Commit(id); !errdefs.IsNotFound(err) {
		t.Errorf("commit after the end: %v", err)
	}
	if _, err := p.CreateSession(Params{Total: 1 << 60}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("more than the disk holds: %v", err)
	}
}

// TestBootSweeps leaves what interrupted installations leave.
func TestBootSweeps(t *testing.T) {
	p := newPhone(t)
	p.mustInstall(p.app("com.a", 1))
	a, err := p.Get("com.a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.CreateSession(Params{}); err != nil {
		t.Fatal(err)
	}
	stale := []string{"data/app/vmdl7.tmp/x", "data/app/~~x==/com.b-y==/x", "data/data/com.b/x", "data/system/packages.list.tmp"}
	for _, path := range stale {
		if err := os.MkdirAll(filepath.Join(p.root, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.root, path), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(p.root, "data/system/packages.list")); err != nil {
		t.Fatal(err)
	}
	p.open()
	for _, path := range stale {
		if p.exists(path) {
			t.Errorf("%s is still there", path)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(p.root, "data/app")); len(entries) != 1 || err != nil {
		t.Errorf("/data/app has %v, %v", entries, err)
	}
	if _, err := p.Get("com.a"); err != nil || p.uids()["com.a"] != fmt.Sprint(a.AppID) {
		t.Errorf("the package is gone: %v", err)
	}
	// Code that is gone is noticed.
	if err := os.RemoveAll(filepath.Join(p.root, a.Dir)); err != nil {
		t.Fatal(err)
	}
	p.open()
	if _, err := p.Get("com.a"); !errdefs.IsNotFound(err) {
		t.Errorf("a package without code: %v", err)
	}
	// So is a damaged memory.
	if err := os.WriteFile(filepath.Join(p.root, "data/system/packages.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.open()
	if !p.exists("data/system/packages.json.damaged") || len(p.List()) != 2 {
		t.Errorf("after a damaged memory: %d packages", len(p.List()))
	}
}

// TestSaveFails makes the memory impossible to write: the old version stays, whole.
func TestSaveFails(t *testing.T) {
	p := newPhone(t)
	p.mustInstall(p.app("com.a", 1))
	before, err := p.Get("com.a")
	if err != nil {
		t.Fatal(err)
	}
	list := p.file("data/system/packages.list")
	// A directory in the place of the temporary file stops root too.
	block := filepath.Join(p.root, "data/system/packages.json.tmp")
	if err := os.MkdirAll(filepath.Join(block, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	fails(t, p.install(Params{}, p.app("com.a", 2)), "INSTALL_FAILED_INSUFFICIENT_STORAGE: .*")
	fails(t, p.install(Params{}, p.app("com.b", 1)), "INSTALL_FAILED_INSUFFICIENT_STORAGE: .*")
	fails(t, p.Uninstall("com.a", false), "DELETE_FAILED_INTERNAL_ERROR")
	if err := p.SetState("com.a", 0, func(s *State) { s.Suspended = true }); err == nil {
		t.Error("a state was set")
	}
	after, err := p.Get("com.a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" || !p.exists(before.Dir+"/base.apk") || p.exists("data/data/com.b") || p.file("data/system/packages.list") != list {
		t.Errorf("something changed: %s", diff)
	}
	if entries, err := os.ReadDir(filepath.Join(p.root, "data/app")); len(entries) != 1 || err != nil {
		t.Errorf("/data/app has %v, %v", entries, err)
	}
}

// TestRenameFails has the system call that makes code an app's refused, as a policy of the host does.
func TestRenameFails(t *testing.T) {
	p := newPhone(t)
	p.mustInstall(p.app("com.a", 1))
	p.denied = "/com.b-"
	fails(t, p.install(Params{}, p.app("com.b", 1)), "INSTALL_FAILED_INSUFFICIENT_STORAGE: Failed to rename")
	if entries, err := os.ReadDir(filepath.Join(p.root, "data/app")); len(entries) != 1 || err != nil || p.uids()["com.b"] != "" || p.exists("data/data/com.b") {
		t.Errorf("the refusal left %v, %v", entries, err)
	}
	p.mustInstall(p.app("com.a", 2))
}

func TestUsersAndStates(t *testing.T) {
	p := newPhone(t)
	p.mustInstall(p.app("com.a", 1))
	id, err := p.CreateUser("second")
	if err != nil || id != 10 || p.owners["/data/user/10/com.a"] != 1010002 {
		t.Errorf("user %d, %v, owners %v", id, err, p.owners)
	}
	p.mustInstall(p.app("com.b", 1))
	if p.owners["/data/user/10/com.b/cache"] != 1010003 {
		t.Errorf("owners %v", p.owners)
	}
	if err := p.SetState("com.a", 10, func(s *State) { s.Suspended, s.Enabled = true, "disabled-user" }); err != nil {
		t.Fatal(err)
	}
	if err := p.SetState("com.none", 10, func(*State) {}); !errdefs.IsNotFound(err) {
		t.Errorf("a package that is not there: %v", err)
	}
	if err := os.WriteFile(filepath.Join(p.root, "data/user/10/com.a/cache/x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Clear("com.a", 10); err != nil || p.exists("data/user/10/com.a/cache/x") || !p.exists("data/user/10/com.a/cache") {
		t.Errorf("clear: %v", err)
	}
	p.open()
	a, err := p.Get("com.a")
	if err != nil || !a.Users[10].Suspended || !a.Users[10].Off() || a.Users[0].Suspended {
		t.Errorf("states %v, %v", a.Users, err)
	}
	if err := p.RemoveUser(10); err != nil || p.exists("data/user/10") {
		t.Errorf("remove: %v", err)
	}
	for _, user := range []int{0, 10} {
		if err := p.RemoveUser(user); !errdefs.IsNotFound(err) {
			t.Errorf("remove user %d: %v", user, err)
		}
	}
}

// TestManyAtOnce installs side by side.
func TestManyAtOnce(t *testing.T) {
	p := newPhone(t)
	var all sync.WaitGroup
	for i := range 12 {
		b := p.app(fmt.Sprintf("com.app%d", i), 1)
		all.Go(func() {
			id, err := p.CreateSession(Params{})
			if err == nil {
				err = p.Write(id, "base.apk", int64(len(b)), bytes.NewReader(b))
			}
			if err == nil {
				_, err = p.Commit(id)
			}
			if err != nil {
				t.Errorf("app %d: %v", i, err)
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for name, uid := range p.uids() {
		if seen[uid] {
			t.Errorf("%s shares uid %s", name, uid)
		}
		seen[uid] = true
	}
	if len(seen) != 14 {
		t.Errorf("%d uids", len(seen))
	}
}
