package profile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/phonehost/phonehost/runtime/profile"
)

// record is one property as Android's init stores it.
func record(name, value string) []byte {
	var content []byte
	content = protowire.AppendTag(content, 1, protowire.BytesType)
	content = protowire.AppendString(content, name)
	content = protowire.AppendTag(content, 2, protowire.BytesType)
	content = protowire.AppendString(content, value)
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), content)
}

// realFile is what an Android's file looks like: a few properties, the one that counts among them.
func realFile(reason string) []byte {
	file := record("persist.sys.timezone", "Europe/Paris")
	file = append(file, record("persist.sys.boot.reason", reason)...)
	file = append(file, record("persist.sys.boot.reason.history", "reboot,1700000000\nreboot,factory_reset,1690000000")...)
	return append(file, record("persist.sys.usb.config", "adb")...)
}

func TestEndingOfAnInitThatReboots(t *testing.T) {
	for _, name := range []string{"testphone", "redroid-sysboot"} {
		p := get(t, name)
		for code, want := range map[uint32]profile.Ending{
			0: profile.Crashed, 1: profile.Crashed, 129: profile.Rebooted, 130: profile.PoweredOff, 134: profile.Crashed, 137: profile.Crashed,
		} {
			if got := p.Ending(code, profile.Evidence{BootReason: profile.BootReason{Value: "shutdown"}}); got != want {
				t.Errorf("%s: exit %d means %v, want %v", name, code, got, want)
			}
		}
	}
}

func TestEndingOfAnInitWithoutCapSysBoot(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	after, before := start.Add(time.Minute), start.Add(-time.Minute)
	log := func(reason string) []string {
		return []string{
			"init: Received sys.powerctl='" + reason + "' from pid: 412 (/system/bin/reboot)",
			"init: Reboot start, reason: reboot,an_older_one, reboot_target: ",
			"<6>init: Reboot start, reason: " + reason + ", reboot_target: ",
			"init: Reboot ending, jumping to kernel",
		}
	}
	for _, tt := range []struct {
		name     string
		code     uint32
		evidence profile.Evidence
		want     profile.Ending
	}{
		{"power menu, power off", 0, profile.Evidence{StartedAt: start, BootReason: profile.BootReason{Value: "shutdown,userrequested", StoredAt: after}}, profile.PoweredOff},
		{"SIGTERM from outside", 0, profile.Evidence{StartedAt: start, BootReason: profile.BootReason{Value: "shutdown,container", StoredAt: after}}, profile.PoweredOff},
		{"power menu, restart", 0, profile.Evidence{StartedAt: start, BootReason: profile.BootReason{Value: "reboot,userrequested", StoredAt: after}}, profile.Rebooted},
		{"adb reboot recovery", 0, profile.Evidence{StartedAt: start, BootReason: profile.BootReason{Value: "recovery", StoredAt: after}}, profile.Rebooted},
		{"a word that only begins like it", 0, profile.Evidence{BootReason: profile.BootReason{Value: "shutdowns"}}, profile.Rebooted},
		{"a fatal error of init stores nothing", 0, profile.Evidence{StartedAt: start, BootReason: profile.BootReason{StoredAt: after}}, profile.Crashed},
		{"nothing is known", 0, profile.Evidence{}, profile.Crashed},
		{"the reason is of the end before", 0, profile.Evidence{StartedAt: start, BootReason: profile.BootReason{Value: "shutdown", StoredAt: before}}, profile.Crashed},
		{"the start is not known", 0, profile.Evidence{BootReason: profile.BootReason{Value: "shutdown", StoredAt: before}}, profile.PoweredOff},
		{"only the log tells: off", 0, profile.Evidence{Log: log("shutdown,userrequested")}, profile.PoweredOff},
		{"only the log tells: reboot", 0, profile.Evidence{StartedAt: start, BootReason: profile.BootReason{Value: "shutdown", StoredAt: before}, Log: log("reboot,userrequested")}, profile.Rebooted},
		{"killed", 137, profile.Evidence{BootReason: profile.BootReason{Value: "shutdown", StoredAt: after}}, profile.Crashed},
		{"aborted", 134, profile.Evidence{Log: log("shutdown")}, profile.Crashed},
		{"by the kernel, should it have the capability after all", 130, profile.Evidence{}, profile.PoweredOff},
	} {
		for _, name := range []string{"redroid", "waydroid"} {
			if got := get(t, name).Ending(tt.code, tt.evidence); got != tt.want {
				t.Errorf("%s, %s: %v, want %v", name, tt.name, got, tt.want)
			}
		}
	}
}

func TestReadBootReason(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	volume := func(file []byte) fs.FS {
		return fstest.MapFS{"property/persistent_properties": {Data: file, ModTime: at, Mode: 0o600}}
	}
	for _, tt := range []struct {
		name string
		data fs.FS
		want profile.BootReason
		bad  bool
	}{
		{"stored", volume(realFile("shutdown,userrequested")), profile.BootReason{Value: "shutdown,userrequested", StoredAt: at}, false},
		{"cleared by a boot", volume(realFile("")), profile.BootReason{StoredAt: at}, false},
		{"the last one counts", volume(append(realFile("shutdown"), realFile("reboot")...)), profile.BootReason{Value: "reboot", StoredAt: at}, false},
		{"other fields", volume(append(protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 1<<60), realFile("reboot,adb")...)), profile.BootReason{Value: "reboot,adb", StoredAt: at}, false},
		{"an empty file", volume(nil), profile.BootReason{StoredAt: at}, false},
		{"a fresh volume", fstest.MapFS{}, profile.BootReason{}, false},
		{"too long a value", volume(record("persist.sys.boot.reason", strings.Repeat("r", 5000))), profile.BootReason{Value: strings.Repeat("r", 256), StoredAt: at}, false},
		{"no text", volume(record("persist.sys.boot.reason", "re\xffboot")), profile.BootReason{Value: "re\uFFFDboot", StoredAt: at}, false},
		{"cut off", volume(realFile("shutdown")[:40]), profile.BootReason{}, true},
		{"not a message", volume([]byte("persist.sys.boot.reason=shutdown\n")), profile.BootReason{}, true},
		{"too large", volume(make([]byte, 1<<20+1)), profile.BootReason{}, true},
		{"a directory", fstest.MapFS{"property/persistent_properties/x": {}}, profile.BootReason{}, true},
	} {
		got, err := profile.ReadBootReason(tt.data)
		if got != tt.want || errdefs.IsInvalidArgument(err) != tt.bad || err != nil && !tt.bad {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
}

// TestReadBootReasonOfAHostileVolume has the guest put other things in the file's place: nothing outside is read, and nothing waits.
func TestReadBootReasonOfAHostileVolume(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, realFile("shutdown,of_another"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, place := range map[string]func(dir string) error{
		"a link to a file outside": func(dir string) error { return os.Symlink(outside, filepath.Join(dir, "persistent_properties")) },
		"a pipe without a writer":  func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "persistent_properties"), 0o600) },
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "property"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := place(filepath.Join(dir, "property")); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if got, err := profile.ReadBootReason(root.FS()); !errdefs.IsInvalidArgument(err) || got.Value != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, "property")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if got, err := profile.ReadBootReason(root.FS()); err == nil || got.Value != "" || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is a link outside: %+v, %v", got, err)
	}
}

// FuzzBootReason reads whatever a guest left as its persistent properties.
func FuzzBootReason(f *testing.F) {
	f.Add(realFile("shutdown,userrequested"))
	f.Add(realFile("reboot")[:17])
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0x0b, 0x0b, 0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, file []byte) {
		reason, err := profile.ReadBootReason(fstest.MapFS{"property/persistent_properties": {Data: file}})
		if err != nil && (!errdefs.IsInvalidArgument(err) || reason.Value != "") {
			t.Errorf("%+v, %v", reason, err)
		}
		if len(reason.Value) > 3*256 {
			t.Errorf("a reason of %d bytes", len(reason.Value))
		}
	})
}
