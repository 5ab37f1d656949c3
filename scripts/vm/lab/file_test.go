package lab

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/vm/debian"
)

const small = `
release = "bookworm"
suites = ["bookworm"]
architectures = ["amd64", "arm64"]
[initrd]
packages = ["busybox-static"]
[kernel."6.12"]
suites = ["bookworm-security"]
image = ["linux-image-6.12.*-{arch}"]
[kernel."6.1"]
suites = ["bookworm"]
image = ["linux-image-6.1.*-{arch}"]
build = ["linux-kbuild-6.1:{host}"]
[root]
packages = ["systemd"]
[addition.walls]
packages = ["ufw"]
modules = ["xt_hl"]
`

func TestParseFile(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"good":                   {small, ""},
		"misspelt key":           {small + "imge = []\n", "imge"},
		"no TOML":                {"release =", "1"},
		"no kernel":              {strings.Split(small, "[kernel")[0], "kernel"},
		"odd series":             {small + "[kernel.new]\nsuites=[\"s\"]\nimage=[\"i\"]\n", `"new"`},
		"odd addition":           {small + "[addition.6]\npackages=[\"p\"]\nmodules=[\"m\"]\n", `"6"`},
		"addition of no modules": {small + "[addition.none]\npackages=[\"p\"]\n", `"none"`},
		"kernel of no suite":     {small + "[kernel.\"7.3\"]\nimage=[\"i\"]\n", `"7.3"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseFile([]byte(tt.text))
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestOpenReadsTheRepositorysFile(t *testing.T) {
	l, err := Open(Config{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if diff := cmp.Diff([]string{"6.1", "6.12", "7.3"}, l.Series()); diff != "" {
		t.Error(diff)
	}
	for _, arch := range l.Architectures() {
		for _, set := range l.file.sets(arch) {
			req, err := l.file.request(set, arch)
			if err != nil {
				t.Fatal(err)
			}
			if len(req.Suites) == 0 || len(req.Packages) == 0 || strings.Contains(strings.Join(req.Packages, " "), "{") {
				t.Errorf("%s/%s asks for %q from %q", set, arch, req.Packages, req.Suites)
			}
		}
	}
	if _, err := l.Kernel(t.Context(), "amd64", "5.4"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "6.12") {
		t.Errorf("a series that is not there: %v", err)
	}
	if _, err := l.Kernel(t.Context(), "riscv64", "6.12"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "riscv64") {
		t.Errorf("an architecture that is not there: %v", err)
	}
}

func TestOpenOutsideACheckout(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := Open(Config{CacheDir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "lab.toml") {
		t.Errorf("got %v", err)
	}
}

func TestRequest(t *testing.T) {
	f, err := parseFile([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	req, err := f.request("kernel-6.12", "arm64")
	if err != nil {
		t.Fatal(err)
	}
	want := debian.Request{Arch: "arm64", Suites: []string{"bookworm-security"}, Packages: []string{"linux-image-6.12.*-arm64"}}
	if diff := cmp.Diff(want, req); diff != "" {
		t.Error(diff)
	}
	other := req
	other.Suites = []string{"bookworm"}
	if requestKey(req) == requestKey(other) {
		t.Error("other suites ask for the same")
	}
}

func TestRequestOfAnAddition(t *testing.T) {
	f, err := parseFile([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	req, err := f.request(rootOf("walls"), "amd64")
	want := debian.Request{Arch: "amd64", Suites: []string{"bookworm"}, Packages: []string{"systemd", "ufw"}, Closure: true, Essential: true}
	if diff := cmp.Diff(want, req); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if sets := f.sets("amd64"); !slices.Contains(sets, "root-walls") {
		t.Errorf("the sets are %q", sets)
	}
	if _, err := f.request(rootOf("doors"), "amd64"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "walls") {
		t.Errorf("an addition that is not there: %v", err)
	}
	// The ordinary root is what it is without any addition.
	ordinary, err := f.request(rootOf(""), "amd64")
	if err != nil || len(ordinary.Packages) != 1 {
		t.Errorf("%+v, %v", ordinary, err)
	}
}

func TestSelectPackages(t *testing.T) {
	all := debian.Resolution{Packages: []debian.Package{{Name: "linux-image-6.12.1-arm64"}, {Name: "linux-kbuild-6.12.1"}, {Name: "linux-headers-6.12.1-arm64"}}}
	for name, tt := range map[string]struct {
		patterns []string
		want     []string
	}{
		"image":            {[]string{"linux-image-6.12.*-arm64"}, []string{"linux-image-6.12.1-arm64"}},
		"an architecture":  {[]string{"linux-kbuild-6.12.*:amd64"}, []string{"linux-kbuild-6.12.1"}},
		"none means all":   {nil, []string{"linux-image-6.12.1-arm64", "linux-kbuild-6.12.1", "linux-headers-6.12.1-arm64"}},
		"nothing is meant": {[]string{"x"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range selectPackages(all, tt.patterns).Packages {
				got = append(got, p.Name)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestChanges(t *testing.T) {
	res := func(packages ...debian.Package) debian.Resolution { return debian.Resolution{Packages: packages} }
	old := res(debian.Package{Name: "a", Version: "1", SHA256: "x"}, debian.Package{Name: "b", Version: "1"}, debian.Package{Name: "c", Version: "1", SHA256: "x"})
	now := res(debian.Package{Name: "a", Version: "2", SHA256: "y"}, debian.Package{Name: "c", Version: "1", SHA256: "y"}, debian.Package{Name: "d", Version: "1"})
	want := []string{"a 1 -> 2", "b 1 removed", "c 1 has another content", "d 1 added"}
	if diff := cmp.Diff(want, changes(old, now)); diff != "" {
		t.Error(diff)
	}
	if got := changes(old, old); len(got) != 0 {
		t.Errorf("the same differs: %v", got)
	}
}

// TestResolutionIsKept shows that what was resolved is used without the mirror, and that damage to the file is no end.
func TestResolutionIsKept(t *testing.T) {
	l, err := Open(Config{CacheDir: t.TempDir(), Mirror: "http://127.0.0.1:1/debian"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	req, err := l.file.request(initrdSet, "arm64")
	if err != nil {
		t.Fatal(err)
	}
	want := debian.Resolution{Packages: []debian.Package{{Name: "busybox-static", Version: "1", Arch: "arm64"}}}
	if err := l.changeResolved(t.Context(), func(known resolved) bool {
		known["initrd/arm64"] = answer{Request: requestKey(req), Resolution: want}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	got, err := l.packages(t.Context(), initrdSet, "arm64")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	all, err := l.Resolutions()
	if err != nil || len(all) != 1 || all[0].Set != initrdSet || len(all[0].Named) != 1 {
		t.Errorf("resolutions %+v, %v", all, err)
	}
	path, err := l.resolvedPath()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if known, err := l.readResolved(); err != nil || len(known) != 0 {
		t.Errorf("of a damaged file: %v, %v", known, err)
	}
}

func TestSourceKey(t *testing.T) {
	repo := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := writeFile(filepath.Join(repo, name), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module x\n")
	write("go.sum", "")
	write("cmd/main.go", "package main\nimport _ \""+goModule+"/lib\"\n")
	write("lib/lib.go", "package lib\nimport _ \""+goModule+"/lib/deep\"\n")
	write("lib/deep/deep.go", "package deep\nimport _ \"fmt\"\n")
	write("other/other.go", "package other\n")
	key := func() string {
		t.Helper()
		k, err := sourceKey(repo, "cmd")
		if err != nil {
			t.Fatal(err)
		}
		return string(k)
	}
	first := key()
	for _, tt := range []struct {
		file, text string
		differ     bool
	}{
		{"other/other.go", "package other // changed\n", false},
		{"lib/lib_test.go", "package lib\n", false},
		{"lib/deep/deep.go", "package deep\n", true},
		{"lib/embedded.txt", "text", true},
		{"go.sum", "x", true},
	} {
		write(tt.file, tt.text)
		now := key()
		if (now != first) != tt.differ {
			t.Errorf("after a change of %s the key differs: %v, want %v", tt.file, now != first, tt.differ)
		}
		first = now
	}
	write("lib/lib.go", "package lib {")
	if _, err := sourceKey(repo, "cmd"); err == nil {
		t.Error("a file that is no Go was hashed")
	}
}

// TestVMLostPackageIsResolvedAnew asks for an asset whose resolved package the mirror no longer has.
func TestVMLostPackageIsResolvedAnew(t *testing.T) {
	if os.Getenv("PHONEHOST_TEST_VM") == "" {
		t.Skip("the mirror is asked only where PHONEHOST_TEST_VM is set")
	}
	l, err := Open(Config{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	req, err := l.file.request(initrdSet, "arm64")
	if err != nil {
		t.Fatal(err)
	}
	lost := debian.Package{Name: "busybox-static", Version: "1:0-1", Arch: "arm64", Archive: "debian",
		Path: "pool/main/b/busybox/busybox-static_0-1_arm64.deb", SHA256: strings.Repeat("ab", 32), Size: 1}
	if err := l.changeResolved(t.Context(), func(known resolved) bool {
		known["initrd/arm64"] = answer{Request: requestKey(req), Resolution: debian.Resolution{Packages: []debian.Package{lost}}}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	var used debian.Resolution
	_, _, err = l.asset(t.Context(), recipe{name: "probe", set: initrdSet, arch: "arm64",
		build: func(_ context.Context, _ string, packages debian.Resolution) error { used = packages; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if len(used.Packages) != 1 || used.Packages[0].Name != lost.Name || used.Packages[0].Version == lost.Version {
		t.Errorf("built from %+v", used.Packages)
	}
	now, err := l.packages(t.Context(), initrdSet, "arm64")
	if diff := cmp.Diff(used.Packages, now.Packages); err != nil || diff != "" {
		t.Errorf("what is kept differs: %v\n%s", err, diff)
	}
}
