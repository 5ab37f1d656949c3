package app_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/app"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// phones has one phone that runs.
type phones struct{}

func (phones) Get(id string) (phone.Snapshot, error) {
	snap := phone.Snapshot{Status: phone.Running, InitPID: 7}
	snap.Record.Spec.Profile = "testphone"
	return snap, nil
}
func (phones) Watch([]string) *phone.Watcher { panic("the guest of this test does not end") }

// guest answers commands by what they begin with, and keeps them with the bytes of their input. A real one is in scripts/e2e.
type guest struct {
	answers map[string]string
	ran     []string
}

func (g *guest) Exec(_ context.Context, _ string, o container.ExecOptions) (uint32, error) {
	line := strings.Join(o.Args, " ")
	if o.Stdin != nil {
		data, err := io.ReadAll(o.Stdin)
		if err != nil {
			return 1, nil
		}
		line += fmt.Sprintf(" <%d", len(data))
	}
	g.ran = append(g.ran, line)
	for prefix, says := range g.answers {
		if strings.HasPrefix(line, prefix) {
			text, bad := strings.CutPrefix(says, "!")
			io.WriteString(o.Stdout, text)
			if bad {
				return 1, nil
			}
			return 0, nil
		}
	}
	return 127, nil
}

func (g *guest) EndExec(context.Context, string, string) error { return errdefs.ErrNotFound }

func newSpool(t *testing.T) (*app.Spool, string) {
	t.Helper()
	dir := t.TempDir()
	spool, err := app.NewSpool(dir, func() (uint64, error) { return 1 << 40, nil }, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return spool, dir
}

// apks are a base and a split.
func apks(t *testing.T) (base, split []byte) {
	t.Helper()
	key, err := apkmake.NewKey("test")
	if err != nil {
		t.Fatal(err)
	}
	base, err = apkmake.Make(apkmake.App{Package: "com.example.app", VersionCode: 7, Label: "Example", MinSDK: 24}, key)
	if err != nil {
		t.Fatal(err)
	}
	split, err = apkmake.Make(apkmake.App{Package: "com.example.app", VersionCode: 7, Split: "config.de", MinSDK: 24}, key)
	if err != nil {
		t.Fatal(err)
	}
	return base, split
}

func announce(all ...[]byte) []app.File {
	var files []app.File
	for _, a := range all {
		sum := sha256.Sum256(a)
		files = append(files, app.File{Size: uint64(len(a)), SHA256: sum[:]})
	}
	return files
}

func kept(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestReceive(t *testing.T) {
	spool, dir := newSpool(t)
	base, split := apks(t)
	set, err := spool.Receive(t.Context(), announce(split, base), bytes.NewReader(slices.Concat(split, base)))
	if err != nil {
		t.Fatal(err)
	}
	if set.App.Package != "com.example.app" || len(set.APKs) != 2 || set.APKs[0].Split != "config.de" || set.APKs[1].Split != "" {
		t.Errorf("%+v", set)
	}
	f, err := spool.Open(set, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || !bytes.Equal(text, base) {
		t.Errorf("%d bytes are kept of the base, %v", len(text), err)
	}
	if err := spool.Collect(func(name string) bool { return name == set.Name }); err != nil || kept(t, dir) != 1 {
		t.Errorf("what an operation names was collected: %v", err)
	}
	if err := errors.Join(spool.Remove(set), spool.Remove(set)); err != nil || kept(t, dir) != 0 {
		t.Errorf("%d sets are left, %v", kept(t, dir), err)
	}
	if err := spool.Remove(app.Set{Name: "../x"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("removal of what is no set: %v", err)
	}
}

// TestReceiveLeavesNothing has what comes be wrong in every way.
func TestReceiveLeavesNothing(t *testing.T) {
	spool, dir := newSpool(t)
	full, err := app.NewSpool(dir, func() (uint64, error) { return 1<<30 + 10, nil }, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	base, split := apks(t)
	left := errors.New("the caller left")
	wrong := announce(base)
	wrong[0].SHA256 = announce(split)[0].SHA256
	gone, leave := context.WithCancel(t.Context())
	leave()
	for name, tt := range map[string]struct {
		spool  *app.Spool
		ctx    context.Context
		files  []app.File
		data   io.Reader
		reason string
		err    error
	}{
		"no APK":            {reason: fault.InvalidField},
		"too many":          {files: make([]app.File, app.MaxAPKs+1), reason: fault.InvalidField},
		"empty":             {files: []app.File{{}}, reason: fault.InvalidField},
		"too large":         {files: []app.File{{Size: app.MaxBytes}, {Size: 1}}, reason: fault.InvalidField},
		"half a digest":     {files: []app.File{{Size: 1, SHA256: []byte{1}}}, reason: fault.InvalidField},
		"short":             {files: announce(base), data: bytes.NewReader(base[:100]), reason: fault.InvalidField},
		"long":              {files: announce(base), data: bytes.NewReader(append(slices.Clip(base), 1)), reason: fault.InvalidField},
		"other bytes":       {files: wrong, data: bytes.NewReader(base), reason: app.DigestMismatch},
		"no zip":            {files: announce([]byte("hello")), data: strings.NewReader("hello"), reason: app.BadAPK},
		"a split alone":     {files: announce(split), data: bytes.NewReader(split), reason: app.BadAPK},
		"two bases":         {files: announce(base, base), data: bytes.NewReader(slices.Concat(base, base)), reason: app.BadAPK},
		"disk low":          {spool: full, files: announce(base), data: bytes.NewReader(base), reason: fault.DiskLow},
		"caller left":       {ctx: gone, files: announce(base), data: bytes.NewReader(base), err: context.Canceled},
		"broken off":        {files: announce(base), data: io.MultiReader(bytes.NewReader(base[:100]), errReader{left}), err: left},
		"broken at its end": {files: announce(base), data: io.MultiReader(bytes.NewReader(base), errReader{left}), err: left},
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := spool, t.Context()
			if tt.spool != nil {
				s = tt.spool
			}
			if tt.ctx != nil {
				ctx = tt.ctx
			}
			_, err := s.Receive(ctx, tt.files, tt.data)
			if err == nil || fault.Reason(err) != tt.reason || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v, want reason %q, error %v", err, tt.reason, tt.err)
			}
		})
	}
	if n := kept(t, dir); n != 0 {
		t.Errorf("%d sets are left", n)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// do does a job of an app.
func do(t *testing.T, h job.Handler, payload any) error {
	t.Helper()
	return again(t, h, payload, false)
}

// again is do for a job that an earlier agent may have begun.
func again(t *testing.T, h job.Handler, payload any, begun bool) error {
	t.Helper()
	text, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Do(t.Context(), job.Work{OperationID: "op-1", PhoneID: "p1", Payload: text, Again: begun, Progress: func(string) {}})
	return err
}

func TestInstall(t *testing.T) {
	spool, dir := newSpool(t)
	base, split := apks(t)
	one, err := spool.Receive(t.Context(), announce(base), bytes.NewReader(base))
	if err != nil {
		t.Fatal(err)
	}
	two, err := spool.Receive(t.Context(), announce(base, split), bytes.NewReader(slices.Concat(base, split)))
	if err != nil {
		t.Fatal(err)
	}
	sizes := fmt.Sprintf("%d", len(base)+len(split))
	session := map[string]string{
		"pm install-create": "Success: created install session [42]\n", "pm install-write": "Success: streamed 1 bytes\n",
		"pm install-commit": "Success\n", "pm install-abandon": "Success\n",
	}
	with := func(command, says string) map[string]string {
		m := map[string]string{command: says}
		for k, v := range session {
			if k != command {
				m[k] = v
			}
		}
		return m
	}
	writes := []string{
		fmt.Sprintf("pm install-write -S %d 42 0.apk - <%d", len(base), len(base)), fmt.Sprintf("pm install-write -S %d 42 1.apk - <%d", len(split), len(split)),
	}
	for name, tt := range map[string]struct {
		set     app.Set
		options app.Options
		answers map[string]string
		ran     []string
		text    string // of the refusal
	}{
		"one": {set: one, answers: map[string]string{"pm install": "Success\n"}, ran: []string{fmt.Sprintf("pm install -r -S %d <%d", len(base), len(base))}},
		"one, all options": {
			set: one, options: app.Options{Downgrade: true, Grant: true, TestOnly: true}, answers: map[string]string{"pm install": "Performing Streamed Install\nSuccess\n"},
			ran: []string{fmt.Sprintf("pm install -r -d -g -t -S %d <%d", len(base), len(base))},
		},
		"one, refused": {
			set: one, answers: map[string]string{"pm install": "!Failure [INSTALL_FAILED_VERSION_DOWNGRADE: Downgrade detected: Update version code 7 is older than current 9]\n"},
			ran: []string{fmt.Sprintf("pm install -r -S %d <%d", len(base), len(base))}, text: "INSTALL_FAILED_VERSION_DOWNGRADE: Downgrade detected",
		},
		"one, refused with exit code 0": {
			set: one, answers: map[string]string{"pm install": "Failure [INSTALL_FAILED_OLDER_SDK]\n"}, ran: []string{fmt.Sprintf("pm install -r -S %d <%d", len(base), len(base))},
			text: "INSTALL_FAILED_OLDER_SDK (pm install in p1)",
		},
		"set": {set: two, answers: session, ran: []string{"pm install-create -r -S " + sizes, writes[0], writes[1], "pm install-commit 42"}},
		"set, no session": {
			set: two, answers: with("pm install-create", "!Error: no space"), ran: []string{"pm install-create -r -S " + sizes}, text: "Error: no space",
		},
		"set, write fails": {
			set: two, answers: with("pm install-write", "!Error: failed to write; Failure [INSTALL_FAILED_INSUFFICIENT_STORAGE]"),
			ran: []string{"pm install-create -r -S " + sizes, writes[0], "pm install-abandon 42"}, text: "INSTALL_FAILED_INSUFFICIENT_STORAGE",
		},
		"set, commit fails": {
			set: two, answers: with("pm install-commit", "!Failure [INSTALL_FAILED_MISSING_SPLIT: x]"),
			ran: []string{"pm install-create -r -S " + sizes, writes[0], writes[1], "pm install-commit 42", "pm install-abandon 42"}, text: "INSTALL_FAILED_MISSING_SPLIT: x",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := &guest{answers: tt.answers}
			m := app.Manager{Guests: g, Phones: phones{}, Spool: spool}
			payload, _ := app.InstallPayload(tt.set, tt.options)
			err := do(t, m.Installer(), payload)
			if tt.text == "" && err != nil || tt.text != "" && (fault.Reason(err) != app.Refused || !strings.Contains(err.Error(), tt.text)) {
				t.Errorf("%v, want %q", err, tt.text)
			}
			if diff := cmp.Diff(tt.ran, g.ran); diff != "" {
				t.Error(diff)
			}
		})
	}
	m := app.Manager{Spool: spool}
	for _, set := range []app.Set{one, two} {
		payload, _ := app.InstallPayload(set, app.Options{})
		text, err := json.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		if !app.Names([]json.RawMessage{text})(set.Name) {
			t.Errorf("the payload of %s does not name it", set.Name)
		}
		m.Installer().Clean(text)
	}
	if n := kept(t, dir); n != 0 {
		t.Errorf("%d sets are left", n)
	}
}

func TestManage(t *testing.T) {
	for name, tt := range map[string]struct {
		handler func(*app.Manager) job.Handler
		keep    bool
		says    string
		ran     string
		text    string
	}{
		"uninstall":          {handler: (*app.Manager).Uninstaller, says: "Success\n", ran: "pm uninstall com.example"},
		"uninstall, keep":    {handler: (*app.Manager).Uninstaller, keep: true, says: "Success\n", ran: "pm uninstall -k com.example"},
		"uninstall, none":    {handler: (*app.Manager).Uninstaller, says: "!Failure [DELETE_FAILED_INTERNAL_ERROR]\n", ran: "pm uninstall com.example", text: "DELETE_FAILED_INTERNAL_ERROR"},
		"start":              {handler: (*app.Manager).Starter, says: "Starting: Intent { act=android.intent.action.MAIN }\n", ran: "am start com.example"},
		"start, none":        {handler: (*app.Manager).Starter, says: "Starting: Intent { }\nError: Activity not started, unable to resolve Intent { }\n", ran: "am start com.example", text: "Error: Activity not started"},
		"start, refused":     {handler: (*app.Manager).Starter, says: "!java.lang.SecurityException: no\n", ran: "am start com.example", text: "java.lang.SecurityException: no"},
		"start, without am":  {handler: (*app.Manager).Starter, says: "!", ran: "am start com.example", text: "exit code 1 and no word"},
		"stop":               {handler: (*app.Manager).Stopper, says: "", ran: "am force-stop com.example"},
		"stop, not possible": {handler: (*app.Manager).Stopper, says: "!Error: no", ran: "am force-stop com.example", text: "Error: no"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &guest{answers: map[string]string{"": tt.says}}
			err := do(t, tt.handler(&app.Manager{Guests: g, Phones: phones{}}), app.Payload("com.example", tt.keep))
			if tt.text == "" && err != nil || tt.text != "" && (fault.Reason(err) != app.Refused || !strings.Contains(err.Error(), tt.text)) {
				t.Errorf("%v, want %q", err, tt.text)
			}
			if diff := cmp.Diff([]string{tt.ran}, g.ran); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestUninstallAgain removes an app that an agent which died may have removed: that it is gone is what was asked for, where the guest
// says that it is gone.
func TestUninstallAgain(t *testing.T) {
	const refused = "!Failure [not installed for 0]\n"
	const other = "package:/data/app/b/base.apk=org.b versionCode:1 uid:10012\n"
	const there = other + "package:/data/app/e/base.apk=com.example versionCode:1 uid:10013\n"
	for name, tt := range map[string]struct {
		again bool
		says  string // of the uninstallation
		list  string // of the apps
		good  bool
	}{
		"gone":                  {again: true, says: refused, list: other, good: true},
		"none is left":          {again: true, says: refused, list: "", good: true},
		"was not removed":       {again: true, says: "Success\n", list: there, good: true},
		"gone, by no agent":     {says: refused, list: other},
		"there, and refused":    {again: true, says: "!Failure [DELETE_FAILED_DEVICE_POLICY_MANAGER]\n", list: there},
		"refused, and no list":  {again: true, says: refused, list: "!Error: no service\n"},
		"refused, and odd list": {again: true, says: refused, list: "something else\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &guest{answers: map[string]string{
				"pm uninstall com.example":                     tt.says,
				"pm list packages -f -U --show-versioncode -3": tt.list, "pm list packages -f -U --show-versioncode -s": "",
			}}
			err := again(t, (&app.Manager{Guests: g, Phones: phones{}}).Uninstaller(), app.Payload("com.example", false), tt.again)
			if tt.good && err != nil || !tt.good && fault.Reason(err) != app.Refused {
				t.Errorf("%v, want success: %v", err, tt.good)
			}
		})
	}
}

func TestList(t *testing.T) {
	g := &guest{answers: map[string]string{
		"pm list packages -f -U --show-versioncode -3": "package:/data/app/~~a==/org.b-c==/base.apk=org.b versionCode:4294967297 uid:10012,1010012\n",
		"pm list packages -f -U --show-versioncode -s": "WARNING: linker: something\npackage:/system/framework/framework-res.apk=android versionCode:34 uid:1000\npackage:/system/app/a.apk=com.a versionCode:1 uid:10001\n",
	}}
	m := app.Manager{Guests: g, Phones: phones{}}
	third := app.Installed{Package: "org.b", VersionCode: 1<<32 + 1, UID: 10012, Path: "/data/app/~~a==/org.b-c==/base.apk"}
	system := []app.Installed{
		{Package: "android", VersionCode: 34, UID: 1000, Path: "/system/framework/framework-res.apk", System: true},
		{Package: "com.a", VersionCode: 1, UID: 10001, Path: "/system/app/a.apk", System: true},
	}
	for scope, want := range map[app.Scope][]app.Installed{app.ThirdParty: {third}, app.System: system, app.All: append(slices.Clip(system), third)} {
		got, err := m.List(t.Context(), "p1", scope)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("scope %d: %s", scope, diff)
		}
	}
	for _, says := range []string{"!Failure calling service package: Broken pipe\n", "package:\n", "package:no path\n", "package:/a=1 uid:1\n", "package:/a=com.a uid:x\n", "Exception\n"} {
		m.Guests = &guest{answers: map[string]string{"pm": says}}
		if got, err := m.List(t.Context(), "p1", app.All); fault.Reason(err) != app.Refused {
			t.Errorf("%q gave %v, %v", says, got, err)
		}
	}
}

func TestCheckPackage(t *testing.T) {
	for name, ok := range map[string]bool{
		"com.example": true, "a.b_1.C": true, "": false, "com": false, "com.": false, ".com": false, "com..a": false, "1com.a": false, "com.1a": false,
		"com.a b": false, "com.a;reboot": false, "-r.com": false, "com.ex\nample": false, "a." + strings.Repeat("b", 222): false,
	} {
		if err := app.CheckPackage(name); (err == nil) != ok {
			t.Errorf("%q: %v, want accepted: %v", name, err, ok)
		}
	}
}
