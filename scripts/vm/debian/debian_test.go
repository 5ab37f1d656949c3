package debian

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

const sum = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func TestCompareVersions(t *testing.T) {
	// Each is older than the next.
	order := []string{
		"1.0~~", "1.0~~a", "1.0~", "1.0~beta1", "1.0~rc1", "1.0", "1.0-0ubuntu1", "1.0-1~bpo12+1", "1.0-1", "1.0-1+b1", "1.0-1+deb12u1",
		"1.0-9", "1.0-10", "1.0a", "1.0+dfsg-1", "1.0.1", "1.2", "1.10", "6.12.107-1~deb12u1", "6.12.117-1~deb12u1", "7.3.4-1~bpo13+1",
		"1:0.1", "1:1.35.0-4+b1", "2:0",
	}
	for i, a := range order {
		for j, b := range order {
			got := CompareVersions(a, b)
			if (i < j && got >= 0) || (i > j && got <= 0) || (i == j && got != 0) {
				t.Errorf("CompareVersions(%q, %q) = %d", a, b, got)
			}
		}
	}
	if CompareVersions("0:1.0-0", "1.0") != 0 || CompareVersions("1.001", "1.1") != 0 {
		t.Error("an epoch, a revision or leading zeros of nothing make a difference")
	}
}

func FuzzCompareVersions(f *testing.F) {
	for _, s := range [][2]string{{"1.0-1", "1.0-2"}, {"1:1~rc", "1.0+x"}, {"", "-"}, {"a:b", "::"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := CompareVersions(a, b), CompareVersions(b, a)
		if (x < 0) != (y > 0) || (x == 0) != (y == 0) {
			t.Errorf("%q and %q: %d, and %d the other way", a, b, x, y)
		}
	})
}

func paragraph(name, version string) string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: arm64\nFilename: pool/%s_%s.deb\nSize: 12\nSHA256: %s\nDescription: x\n Size: 99\n\n",
		name, version, name, version, sum)
}

func TestParseIndex(t *testing.T) {
	long := "Depends: " + strings.Repeat("x", 3<<20) + "\n"
	text := paragraph("one", "1:2-3") +
		"Package: no-hash\nVersion: 1\nArchitecture: all\nFilename: pool/x.deb\nSize: 1\n\n" +
		"Package: two\n" + long + "Version: 1\nArchitecture: all\nFilename: pool/two.deb\nSize: 7\nSHA256: " + sum // no line feed at the end
	var got []Package
	if err := parseIndex(strings.NewReader(text), func(p Package) { got = append(got, p) }); err != nil {
		t.Fatal(err)
	}
	want := []Package{
		{Name: "one", Version: "1:2-3", Arch: "arm64", Path: "pool/one_1:2-3.deb", SHA256: sum, Size: 12},
		{Name: "two", Version: "1", Arch: "all", Path: "pool/two.deb", SHA256: sum, Size: 7},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(paragraph("one", "1") + paragraph("two", "2")))
	f.Add([]byte("Package:\nSize: x\n\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		err := parseIndex(bytes.NewReader(text), func(p Package) {
			if p.Name == "" || p.Version == "" || len(p.SHA256) != 64 || p.Size <= 0 {
				t.Errorf("found %+v", p)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func testIndex(t *testing.T, packages ...string) index {
	t.Helper()
	x := index{}
	for _, p := range packages {
		name, version, _ := strings.Cut(p, " ")
		if err := parseIndex(strings.NewReader(paragraph(name, version)), func(p Package) { x[p.Name] = append(x[p.Name], p) }); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func TestPick(t *testing.T) {
	x := testIndex(t, "linux-image-6.1.0-9-arm64 6.1.9-1", "linux-image-6.1.0-50-arm64 6.1.176-1", "linux-image-6.1.0-50-arm64 6.1.176-2",
		"linux-image-6.1.0-51-cloud-arm64 6.1.180-1", "linux-image-6.1.0-51-rt-arm64 6.1.180-1", "linux-image-6.1.0-51-arm64-dbg 6.1.180-1",
		"linux-image-6.1.0-51-arm64-unsigned 6.1.180-1", "linux-image-6.12.1-arm64-16k 6.12.1-1", "linux-image-6.12.1-arm64 6.12.1-1",
		"busybox 1:1.2-1", "busybox 1:1.10-1", "some-dbg 1")
	for name, tt := range map[string]struct{ pattern, want string }{
		"newest version of the newest": {"linux-image-6.1.*-arm64", "linux-image-6.1.0-50-arm64 6.1.176-2"},
		"not another page size":        {"linux-image-6.12.*-arm64", "linux-image-6.12.1-arm64 6.12.1-1"},
		"name":                         {"busybox", "busybox 1:1.10-1"},
		"a name is taken as it is":     {"some-dbg", "some-dbg 1"},
		"no match":                     {"linux-image-7.*", ""},
		"no such name":                 {"nothing", ""},
		"bad pattern":                  {"linux-[", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, ok := x.pick(tt.pattern)
			got := strings.TrimSpace(p.Name + " " + p.Version)
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("picked %q, %v, want %q", got, ok, tt.want)
			}
		})
	}
}

func TestPrintedURI(t *testing.T) {
	for name, tt := range map[string]struct{ line, want string }{
		"epoch":     {"'http://m/pool/b_1%3a1-4%2bb1_amd64.deb' b_1%3a1-4+b1_amd64.deb 928188 SHA256:00\n", "b_1:1-4+b1_amd64.deb"},
		"progress":  {"Reading package lists...\n", ""},
		"no size":   {"'http://m/a.deb' a.deb\n", ""},
		"no a deb":  {"'http://m/a.tar' a.tar 1 x\n", ""},
		"bad code":  {"'http://m/a.deb' a%zz.deb 1 x\n", ""},
		"no scheme": {"'a.deb' a.deb 1 x\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := printedURI(tt.line); got != tt.want || ok != (tt.want != "") {
				t.Errorf("got %q, %v, want %q", got, ok, tt.want)
			}
		})
	}
	if p, err := testIndex(t, "b 1:1-4").file("b_1:1-4_arm64.deb"); err != nil || p.Name != "b" {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := testIndex(t, "b 1:1-4").file("b_1:1-5_arm64.deb"); err == nil {
		t.Error("a file that no index has was found")
	}
}

func TestParseTargets(t *testing.T) {
	for name, tt := range map[string]struct {
		out  string
		want map[string]string
	}{
		"both": {"Packages http://m/debian/\nDEP-11 http://x/debian/\nPackages http://s/debian-security/\nPackages http://late/debian/\n",
			map[string]string{mainArchive: "http://m/debian", securityArchive: "http://s/debian-security"}},
		"security is beside": {"Packages http://other/thing/\nPackages https://m/a/debian\n",
			map[string]string{mainArchive: "https://m/a/debian", securityArchive: "https://m/a/debian-security"}},
		"none": {"Packages http://m/ubuntu/\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parseTargets(tt.out)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestFindBasesWithoutIndexes asks an apt that has sources, and has never fetched an index.
func TestFindBasesWithoutIndexes(t *testing.T) {
	if _, err := host.Look("apt-get"); err != nil {
		testenv.Missing(t, "vm", err.Error())
	}
	if _, err := os.Stat(keyring); err != nil {
		testenv.Missing(t, "vm", err.Error())
	}
	dir := t.TempDir()
	config, sources := filepath.Join(dir, "apt.conf"), filepath.Join(dir, "sources.list")
	text := fmt.Sprintf("Dir::State %q;\nDir::Cache %q;\nDir::Etc::sourcelist %q;\nDir::Etc::sourceparts \"/dev/null\";\n", dir, dir, sources)
	for file, text := range map[string]string{config: text, sources: "deb http://m.test/debian bookworm main\n"} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("APT_CONFIG", config)
	got, err := findBases(t.Context(), "")
	if diff := cmp.Diff(map[string]string{mainArchive: "http://m.test/debian", securityArchive: "http://m.test/debian-security"}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestExplain(t *testing.T) {
	s := &state{request: Request{Arch: "arm64", Suites: []string{"bookworm"}}}
	for name, tt := range map[string]struct {
		stderr string
		class  func(error) bool
		words  string
	}{
		"no suite":        {"E: The repository 'http://m/debian nosuch Release' does not have a Release file.", errdefs.IsNotFound, `"nosuch"`},
		"mirror is away":  {"E: Failed to fetch x  Could not connect to m:80\nE: The repository 'http://m/debian a Release' does not have a Release file.", errdefs.IsUnavailable, "PHONEHOST_VM_MIRROR"},
		"no architecture": {"W: Unable to find expected entry 'main/binary-arm64/Packages' in Release file", errdefs.IsNotFound, "arm64"},
		"bad signature":   {"W: GPG error: http://m InRelease: NO_PUBKEY", errdefs.IsUnavailable, "NO_PUBKEY"},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.explain(&host.Error{Program: "apt-get", Stderr: tt.stderr, Err: errors.New("exit status 100")})
			if !tt.class(err) || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// archive is an Archive with an empty cache.
func archive(t *testing.T) *Archive {
	t.Helper()
	cache, err := asset.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	a, err := Open(Config{Cache: cache, Mirror: "http://127.0.0.1:1/debian"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestFetchRefusesStrangePackages(t *testing.T) {
	a := archive(t)
	good := Package{Name: "x", Archive: mainArchive, Path: "pool/x.deb", SHA256: sum, Size: 1}
	for name, change := range map[string]func(*Package){
		"path leaves the archive": func(p *Package) { p.Path = "../x.deb" },
		"absolute path":           func(p *Package) { p.Path = "/etc/passwd" },
		"hash is a path":          func(p *Package) { p.SHA256 = "../" + sum[3:] },
		"short hash":              func(p *Package) { p.SHA256 = "00" },
		"unknown archive":         func(p *Package) { p.Archive = "ubuntu" },
	} {
		t.Run(name, func(t *testing.T) {
			p := good
			change(&p)
			if _, err := a.Fetch(t.Context(), Resolution{Packages: []Package{p}}); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestResolveRefusesStrangeRequests(t *testing.T) {
	a := archive(t)
	for name, req := range map[string]Request{
		"architecture":       {Arch: "../x", Suites: []string{"bookworm"}, Packages: []string{"x"}},
		"no suite":           {Arch: "arm64", Packages: []string{"x"}},
		"suite with options": {Arch: "arm64", Suites: []string{"bookworm main\ndeb x"}, Packages: []string{"x"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := a.Resolve(t.Context(), req); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestShare(t *testing.T) {
	packages := []Package{{Name: "a", Size: 100}, {Name: "b", Size: 60}, {Name: "c", Size: 50}, {Name: "d", Size: 1}}
	parts := share(packages, 2)
	var got []string
	for _, part := range parts {
		var names string
		for _, p := range part {
			names += p.Name
		}
		got = append(got, names)
	}
	if diff := cmp.Diff([]string{"ad", "bc"}, got); diff != "" {
		t.Error(diff)
	}
	if parts := share(packages[:1], 4); len(parts) != 1 {
		t.Errorf("one package is dealt into %d parts", len(parts))
	}
}

// TestExtract unpacks a package that is made here.
func TestExtract(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not installed")
	}
	a := archive(t)
	tree := t.TempDir()
	for name, text := range map[string]string{
		"DEBIAN/control": "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: x\n", "boot/vmlinuz-1": "kernel", "boot/config-1": "c", "usr/a/b": "deep",
	} {
		path := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	p := Package{Name: "x", Version: "1", Arch: "all", Archive: mainArchive, Path: "pool/x_1_all.deb", SHA256: sum}
	if err := os.MkdirAll(filepath.Dir(a.File(p)), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := host.Output(t.Context(), "dpkg-deb", "-b", tree, a.File(p)); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		only []string
		want []string
	}{
		"all":     {nil, []string{"boot/config-1", "boot/vmlinuz-1", "usr/a/b"}},
		"pattern": {[]string{"./boot/vmlinuz-*"}, []string{"boot/vmlinuz-1"}},
		"folder":  {[]string{"./usr"}, []string{"usr/a/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := a.Extract(t.Context(), p, dir, tt.only...); err != nil {
				t.Fatal(err)
			}
			var got []string
			err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					rel, _ := filepath.Rel(dir, path)
					got = append(got, rel)
				}
				return err
			})
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
	if err := a.Extract(t.Context(), p, t.TempDir(), "./none"); err == nil || !strings.Contains(err.Error(), "./none") {
		t.Errorf("a pattern without a match: %v", err)
	}
	if err := os.Truncate(a.File(p), 200); err != nil {
		t.Fatal(err)
	}
	if err := a.Extract(t.Context(), p, t.TempDir()); err == nil || !strings.Contains(err.Error(), "package x 1") {
		t.Errorf("a damaged package: %v", err)
	}
}
