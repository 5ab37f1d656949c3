package packages

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// phone is a manager over a directory, which needs no root: owners are only noted.
type phone struct {
	*Manager
	t       *testing.T
	root    string
	mu      sync.Mutex
	owners  map[string]int
	stopped []string
	log     []string
	denied  string // in the path of code that may not be renamed into place
}

func newPhone(t *testing.T) *phone {
	t.Helper()
	p := &phone{t: t, root: t.TempDir()}
	for _, dir := range []string{"data/app", "data/data", "data/user", "data/system", "system/app/Launcher", "system/priv-app/SystemUI"} {
		if err := os.MkdirAll(filepath.Join(p.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.image("system/app/Launcher/Launcher.apk", apkmake.App{Package: "com.android.launcher", VersionCode: 10, TargetSDK: 34})
	p.image("system/priv-app/SystemUI/SystemUI.apk", apkmake.App{Package: "com.android.systemui", VersionCode: 10, TargetSDK: 34, SharedUserID: "android.uid.systemui"})
	p.open()
	return p
}

func key(t *testing.T, name string) *apkmake.Key {
	t.Helper()
	k, err := apkmake.NewKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// image puts a package into the image.
func (p *phone) image(path string, app apkmake.App) {
	p.t.Helper()
	b, err := apkmake.Make(app, key(p.t, "platform"))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.root, path), b, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// open boots.
func (p *phone) open() {
	p.t.Helper()
	p.owners, p.stopped = map[string]int{}, nil
	var err error
	p.Manager, err = Open(Config{
		Root: p.root, SDK: 34, ABIs: []string{"arm64-v8a"},
		Chown: func(path string, uid, _ int) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.owners[strings.TrimPrefix(path, p.root)] = uid
			return nil
		},
		Rename: func(from, to string) error {
			if p.denied != "" && strings.Contains(to, p.denied) {
				return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.EPERM}
			}
			return os.Rename(from, to)
		},
		Stop:   func(pkg string) { p.stopped = append(p.stopped, pkg) },
		Printf: func(format string, args ...any) { p.log = append(p.log, fmt.Sprintf(format, args...)) },
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *phone) apk(app apkmake.App, keys ...string) []byte {
	p.t.Helper()
	var list []*apkmake.Key
	for _, name := range keys {
		list = append(list, key(p.t, name))
	}
	if app.TargetSDK == 0 {
		app.TargetSDK = 33
	}
	b, err := apkmake.Make(app, list...)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// install goes through a session with the APKs.
func (p *phone) install(params Params, apks ...[]byte) error {
	p.t.Helper()
	id, err := p.CreateSession(params)
	if err != nil {
		p.t.Fatal(err)
	}
	for i, b := range apks {
		if err := p.Write(id, fmt.Sprintf("%d.apk", i), int64(len(b)), bytes.NewReader(b)); err != nil {
			p.t.Fatal(err)
		}
	}
	_, err = p.Commit(id)
	return err
}

// app is what most tests install: signed by one key, by the key's name.
func (p *phone) app(name string, version int64) []byte {
	return p.apk(apkmake.App{Package: name, VersionCode: version, Activities: []string{".Main"}}, "test")
}

func (p *phone) mustInstall(apks ...[]byte) {
	p.t.Helper()
	if err := p.install(Params{}, apks...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *phone) file(path string) string {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.root, path))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

func (p *phone) exists(path string) bool {
	_, err := os.Lstat(filepath.Join(p.root, path))
	return err == nil
}

// uids reads packages.list.
func (p *phone) uids() map[string]string {
	p.t.Helper()
	list := map[string]string{}
	for line := range strings.Lines(p.file("data/system/packages.list")) {
		f := strings.Fields(line)
		if len(f) != 10 {
			p.t.Errorf("a line with %d fields: %s", len(f), line)
			continue
		}
		list[f[0]] = f[1]
	}
	return list
}

func fails(t *testing.T, err error, want string) {
	t.Helper()
	var f *Failure
	if !errors.As(err, &f) || !regexp.MustCompile("^"+want+"$").MatchString(f.Error()) {
		t.Errorf("%v, want %s", err, want)
	}
}
