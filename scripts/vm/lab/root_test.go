package lab

import (
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/vm/host"
)

// put writes files and makes directories (names that end in "/") and links ("NAME -> TARGET") below dir.
func put(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		name, target, link := strings.Cut(name, " -> ")
		full := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(full), 0o755)
		switch {
		case err != nil:
		case link:
			err = os.Symlink(target, full)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(full, 0o755)
		default:
			err = os.WriteFile(full, []byte(name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestManifestText(t *testing.T) {
	m := manifest{
		"usr/bin/x":         {kind: 'f', mode: 0o4755, uid: 0, gid: 105},
		"var/run":           {kind: 'l', mode: 0o777, target: "/run"},
		"a name \"\n\u00e9": {kind: 'd', mode: 0o1777, uid: 65534, gid: 1},
	}
	got, err := parseManifest(m.text())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got, cmp.AllowUnexported(entry{})); diff != "" {
		t.Errorf("read back otherwise than written (-want +got):\n%s", diff)
	}
	for _, text := range []string{"f 0644 0 0 usr\n", "f 0944 0 0 \"a\" \"\"\n", "\n"} {
		if _, err := parseManifest([]byte(text)); !errdefs.IsDataLoss(err) {
			t.Errorf("manifest %q: error %v, want data loss", text, err)
		}
	}
}

func TestManifestApply(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "bin/tool", "bin/other", "var/run/lock/", "etc/same -> there", "etc/file", "ours")
	uid, gid := os.Getuid(), os.Getgid()
	like := func(kind byte, mode uint32, target string) entry {
		return entry{kind: kind, mode: mode, uid: uid, gid: gid, target: target}
	}
	m := manifest{
		"bin":      like('d', 0o755, ""),
		"bin/tool": like('f', 0o4755, ""),
		"var":      like('d', 0o2755, ""),
		"var/run":  like('l', 0o777, "/run"),
		"etc":      like('d', 0o700, ""),
		"etc/same": like('l', 0o777, "elsewhere"), // the package's own link stays
		"etc/file": like('d', 0o700, ""),          // of another kind
		"theirs":   like('f', 0o600, ""),
	}
	if err := m.apply(dir); err != nil {
		t.Fatal(err)
	}
	got, err := readTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := manifest{
		"bin":       like('d', 0o755, ""),
		"bin/tool":  like('f', 0o4755, ""),
		"bin/other": like('f', 0o644, ""),
		"var":       like('d', 0o2755, ""),
		"var/run":   like('l', 0o777, "/run"),
		"etc":       like('d', 0o700, ""),
		"etc/same":  like('l', 0o777, "there"),
		"etc/file":  like('f', 0o644, ""),
		"ours":      like('f', 0o644, ""),
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(entry{})); diff != "" {
		t.Errorf("after apply (-want +got):\n%s", diff)
	}
}

func TestPackagedPaths(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "var/lib/dpkg/info/")
	text := "/.\n/bin\n/bin/sh\n/usr\n/usr/lib/libx.so\n/lib64/ld.so\n/etc/lib/x\n"
	if err := os.WriteFile(filepath.Join(dir, "var/lib/dpkg/info/dash.list"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := packagedPaths(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{".": true, "usr/bin": true, "usr/bin/sh": true, "usr": true, "usr/lib/libx.so": true, "usr/lib64/ld.so": true, "etc/lib/x": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("paths of packages (-want +got):\n%s", diff)
	}
}

func TestWriteState(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "usr/bin/tool", "usr/bin/made -> tool", "bin -> usr/bin", "dev/null", "etc/passwd", "etc/ld.so.cache",
		"usr/lib/x86_64-linux-gnu/cache", "usr/lib/aarch64-linux-gnu/cache", "var/lib/dpkg/status", "var/lib/dpkg/info/tool.list")
	if err := os.WriteFile(filepath.Join(dir, "var/lib/dpkg/info/tool.list"), []byte("/usr\n/usr/bin\n/bin/tool\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "state.tar")
	if err := writeState(t.Context(), dir, file); err != nil {
		t.Fatal(err)
	}
	out, err := host.Output(t.Context(), "tar", "-tf", file)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	if !slices.Contains(got, "etc/passwd") || !slices.Contains(got, "usr/bin/made") {
		t.Errorf("state is %q, want etc/passwd and usr/bin/made in it", got)
	}
	for _, none := range []string{"usr/bin/tool", "bin", "dev/null", "etc/ld.so.cache", "var/lib/dpkg/status", "usr/lib/" + multiarch(runtime.GOARCH) + "/cache"} {
		if slices.Contains(got, none) {
			t.Errorf("state has %s, which is a package's or this machine's", none)
		}
	}
}

func TestMaskedNames(t *testing.T) {
	got := maskedNames([]byte("# why\nsystem/a.service\n\n  system/b.timer\t\n"))
	if diff := cmp.Diff([]string{"system/a.service", "system/b.timer"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestRelativeLinks(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "lib/libm.so.6", "usr/lib/libm.so -> /lib/libm.so.6", "usr/lib/near -> libm.so", "usr/out -> /../lib/libm.so.6")
	if err := relativeLinks(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"usr/lib/libm.so": "../../lib/libm.so.6", "usr/lib/near": "libm.so", "usr/out": "../lib/libm.so.6"} {
		if got, err := os.Readlink(filepath.Join(dir, name)); err != nil || got != want {
			t.Errorf("%s leads to %q (%v), want %q", name, got, err, want)
		}
	}
}

// unlike are the paths that the roots of two architectures may differ in, with T for the architecture: what a package has for one
// architecture only, and what is of the package manager.
var unlike = []string{
	"lib64", "usr/lib64", "usr/lib64/*", "usr/bin/ld.so", "usr/lib/ld-linux-T.so.*", "usr/lib/T/*", "usr/lib/T/*/*", "usr/lib/T/*/*/*", "usr/lib/T/perl-base/*/*/*",
	"usr/bin/T", "usr/bin/i386", "usr/share/mfx", "usr/share/mfx/*", "etc/ld.so.cache",
	"var/lib/dpkg/*", "var/lib/dpkg/*/*", "var/lib/apt/*", "var/cache/apt/*/*", "etc/OpenCL", "etc/OpenCL/*",
}

// plain takes the architecture out of names and links.
func plain(m manifest) manifest {
	neutral := strings.NewReplacer("x86_64-linux-gnu", "T", "aarch64-linux-gnu", "T", "x86-64", "T", "x86_64", "T", "aarch64", "T")
	out := manifest{}
	for name, e := range m {
		e.target = neutral.Replace(e.target)
		out[neutral.Replace(name)] = e
	}
	return out
}

func TestVMRoots(t *testing.T) {
	l := openLab(t)
	manifests := map[string]manifest{}
	for _, arch := range l.Architectures() {
		t.Run(arch, func(t *testing.T) {
			r, err := l.Root(t.Context(), arch)
			if err != nil {
				t.Fatal(err)
			}
			m, err := readManifest(filepath.Join(filepath.Dir(r.Image), manifestFile))
			if err != nil {
				t.Fatal(err)
			}
			manifests[arch] = m
			checkRoot(t, l, m, multiarch(arch))
			if err := host.Run(t.Context(), host.Command{Name: "e2fsck", Args: []string{"-fn", r.Image}}); err != nil {
				t.Errorf("the image's file system: %v", err)
			}
			id, err := host.Output(t.Context(), "debugfs", "-R", "cat /etc/machine-id", r.Image)
			if want := mustRead(t, filepath.Join(l.repo, rootDir, "files/etc/machine-id")); err != nil || string(id) != string(want) {
				t.Errorf("machine-id is %q (%v), want %q", id, err, want)
			}
		})
	}
	t.Run("alike", func(t *testing.T) {
		a, b := plain(manifests["amd64"]), plain(manifests["arm64"])
		if len(a) < 1000 || len(b) < 1000 {
			t.Fatalf("roots with %d and %d files", len(a), len(b))
		}
		for _, pair := range []struct{ some, other manifest }{{a, b}, {b, a}} {
			for name, e := range pair.some {
				if pair.other[name] != e && !slices.ContainsFunc(unlike, func(p string) bool { ok, _ := path.Match(p, name); return ok }) {
					t.Errorf("%s is %+v in one root and %+v in the other", name, e, pair.other[name])
				}
			}
		}
	})
}

// TestVMAdditions builds, or finds, the root and the modules of each addition for this machine's architecture, and looks into them.
func TestVMAdditions(t *testing.T) {
	l := openLab(t)
	for name, a := range l.file.Addition {
		t.Run(name, func(t *testing.T) {
			r, err := l.RootWith(t.Context(), runtime.GOARCH, name)
			if err != nil {
				t.Fatal(err)
			}
			m, err := readManifest(filepath.Join(filepath.Dir(r.Image), manifestFile))
			if err != nil {
				t.Fatal(err)
			}
			checkRoot(t, l, m, multiarch(runtime.GOARCH))
			for _, unit := range a.Masked {
				if m["etc/systemd/"+unit].target != "/dev/null" || m["usr/lib/systemd/"+unit].kind == 0 {
					t.Errorf("%s is not there, or not masked", unit)
				}
			}
			ordinary, err := l.Root(t.Context(), runtime.GOARCH)
			if err != nil || ordinary.Image == r.Image {
				t.Errorf("the ordinary root is %+v, %v; want another than %+v", ordinary, err, r)
			}
			for _, series := range l.Series() {
				for _, arch := range l.Architectures() {
					checkAddedModules(t, l, arch, series, name)
				}
			}
		})
	}
	if _, err := l.RootWith(t.Context(), runtime.GOARCH, "none"); !errdefs.IsNotFound(err) {
		t.Errorf("a root with what is not there: %v", err)
	}
	if _, err := l.KernelWith(t.Context(), Kernel{Arch: runtime.GOARCH, Series: "6.1"}, "none"); !errdefs.IsNotFound(err) {
		t.Errorf("modules that are not there: %v", err)
	}
}

// checkAddedModules looks for the modules of an addition beside those that all machines have.
func checkAddedModules(t *testing.T, l *Lab, arch, series, addition string) {
	t.Helper()
	k, err := l.Kernel(t.Context(), arch, series)
	if err != nil {
		t.Fatal(err)
	}
	more, err := l.KernelWith(t.Context(), k, addition)
	if err != nil || more.Image != k.Image || more.Modules == k.Modules || more.Key == k.Key {
		t.Errorf("%s/%s with more modules is %+v, %v; without %+v", series, arch, more, err, k)
		return
	}
	checkModulesOf(t, l, more)
	a, err := l.file.addition(addition)
	if err != nil {
		t.Fatal(err)
	}
	have := modulesIn(t, more)
	for _, name := range a.Modules {
		if !slices.Contains(have, name) {
			t.Errorf("%s/%s: there is no module %s", series, arch, name)
		}
	}
}

// checkRoot looks for what phonehostd, phone-display and tests need, and for what must not be there.
func checkRoot(t *testing.T, l *Lab, m manifest, triplet string) {
	t.Helper()
	for _, name := range []string{
		"usr/lib/systemd/systemd", "usr/bin/containerd", "usr/sbin/runc", "usr/sbin/mke2fs", "usr/sbin/ip", "usr/sbin/nft", "usr/sbin/iptables",
		"usr/bin/kmod", "usr/bin/v4l2-ctl", "usr/sbin/bpftool", "usr/bin/ps", "usr/bin/strace", "usr/bin/openssl", "usr/bin/curl", "usr/bin/busybox",
		"usr/lib/" + triplet + "/libavcodec.so.59", "usr/lib/" + triplet + "/libx264.so.164", "etc/ssl/certs/ca-certificates.crt",
		"etc/systemd/system/multi-user.target.wants/containerd.service", "etc/systemd/system/sysinit.target.wants/phonehost-vm.service", "usr/lib/modules",
	} {
		if m[name].kind == 0 {
			t.Errorf("%s is missing", name)
		}
	}
	masked := maskedNames(mustRead(t, filepath.Join(l.repo, rootDir, "masked")))
	for _, name := range masked {
		if e := m["etc/systemd/"+name]; e.target != "/dev/null" {
			t.Errorf("%s is not masked: %+v", name, e)
		}
		template := name
		if before, after, ok := strings.Cut(name, "@"); ok {
			template = before + "@" + path.Ext(after)
		}
		if m["usr/lib/systemd/"+template].kind == 0 {
			t.Errorf("%s is masked and does not exist", name)
		}
	}
	for name, e := range m {
		top, _, _ := strings.Cut(name, "/")
		if name != top && slices.Contains([]string{"dev", "run", "tmp", "proc", "sys"}, top) || e.kind == '?' {
			t.Errorf("%s is in the root: %+v", name, e)
		}
	}
	if e := m["usr/lib/dbus-1.0/dbus-daemon-launch-helper"]; e.mode != 0o4754 || e.gid == 0 {
		t.Errorf("dbus-daemon-launch-helper is %+v, want set-user-ID for messagebus alone", e)
	}
}
