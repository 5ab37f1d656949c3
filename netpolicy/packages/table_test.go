package packages_test

import (
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/netpolicy/packages"
)

// whole is a list as Android 14 writes it, with packages of the system that share an id, and apps that do.
const whole = `com.example.game 10101 0 /data/user/0/com.example.game default:targetSdkVersion=34 3003 0 7 1 com.android.vending
android 1000 0 /data/system platform:privapp:targetSdkVersion=34 1065,3003,3005 0 34 1 @system
com.android.settings 1000 0 /data/user_de/0/com.android.settings platform:privapp:targetSdkVersion=34 1065,3003 0 34 1 @system
com.google.android.gms 10020 1 /data/user/0/com.google.android.gms privapp:targetSdkVersion=34 3003,3002 1 240115000 1 @product
com.google.android.gsf 10020 0 /data/user/0/com.google.android.gsf privapp:targetSdkVersion=34 none 0 34 0 @null
`

// old is a list of an older Android: of six fields.
const old = "com.example.old 10001 1 /data/data/com.example.old default none\n"

func parse(t testing.TB, text string) *packages.Table {
	t.Helper()
	table, err := packages.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func names(list []packages.Package) []string {
	var all []string
	for _, p := range list {
		all = append(all, p.Name)
	}
	return all
}

func TestParse(t *testing.T) {
	table := parse(t, whole)
	if got, want := names(table.All()), []string{"android", "com.android.settings", "com.example.game", "com.google.android.gms", "com.google.android.gsf"}; !slices.Equal(got, want) || table.Len() != 5 {
		t.Errorf("the %d packages are %q, want %q", table.Len(), got, want)
	}
	if got, want := table.AppIDs(), []uint32{1000, 10020, 10101}; !slices.Equal(got, want) {
		t.Errorf("the app ids are %d, want %d", got, want)
	}
	for id, want := range map[uint32][]string{
		1000: {"android", "com.android.settings"}, 10020: {"com.google.android.gms", "com.google.android.gsf"}, 10101: {"com.example.game"}, 10102: nil,
	} {
		if got := names(table.ByAppID(id)); !slices.Equal(got, want) {
			t.Errorf("the packages of %d are %q, want %q", id, got, want)
		}
	}
	got, found := table.ByName("com.google.android.gms")
	want := packages.Package{
		Name: "com.google.android.gms", AppID: 10020, Debuggable: true, DataDir: "/data/user/0/com.google.android.gms", SEInfo: "privapp:targetSdkVersion=34",
		GIDs: []uint32{3003, 3002}, ProfileableFromShell: true, VersionCode: 240115000, Profileable: true, Installer: "@product",
	}
	if diff := cmp.Diff(want, got); !found || diff != "" {
		t.Errorf("it is known: %v\n%s", found, diff)
	}
	if p, found := table.ByName("com.google.android"); found {
		t.Errorf("there is %v", p)
	}
}

// TestParseFields reads lines of all the numbers of fields that there are, and of more.
func TestParseFields(t *testing.T) {
	six := packages.Package{Name: "com.example.old", AppID: 10001, Debuggable: true, DataDir: "/data/data/com.example.old", SEInfo: "default"}
	with := func(edit func(*packages.Package)) packages.Package { p := six; edit(&p); return p }
	line := strings.TrimSuffix(old, "\n")
	for text, want := range map[string]packages.Package{
		line:                              six,
		line + " 1":                       with(func(p *packages.Package) { p.ProfileableFromShell = true }),
		line + " 0 -3":                    with(func(p *packages.Package) { p.VersionCode = -3 }),
		line + " 0 9223372036854775807 1": with(func(p *packages.Package) { p.VersionCode, p.Profileable = 1<<63-1, true }),
		line + " 0 3 0 @null":             with(func(p *packages.Package) { p.VersionCode, p.Installer = 3, "@null" }),
		line + " 0 3 0 @null 11 12":       with(func(p *packages.Package) { p.VersionCode, p.Installer = 3, "@null" }),
		line + " yes 3 0 @null":           six,
		line + " 0 3.1 1 @null":           six,
		strings.ReplaceAll(line, " ", "\t ") + " \r": six,
	} {
		if diff := cmp.Diff([]packages.Package{want}, parse(t, text+"\n").All()); diff != "" {
			t.Errorf("%q:\n%s", text, diff)
		}
	}
}

// TestParseRefuses reads damaged lists, and those of a guest that tries something.
func TestParseRefuses(t *testing.T) {
	long := strings.Repeat("a", packages.MaxName)
	for name, tt := range map[string]struct {
		text  string
		class error
		want  string // in the error
	}{
		"nothing":                      {"", errdefs.ErrDataLoss, "no package"},
		"empty line":                   {old + "\n" + whole, errdefs.ErrDataLoss, "line 2: \"\" has 0 fields"},
		"cut off":                      {whole + "com.example.new 10102 0 /data/user/0/com.example.new default none", errdefs.ErrDataLoss, "line 6"},
		"five fields":                  {whole + "com.example.new 10102 0 /data default\n", errdefs.ErrDataLoss, "has 5 fields; want at least 6"},
		"name with a dash":             {"com.a-b 10102 0 /d s none\n", errdefs.ErrDataLoss, `has a '-'`},
		"name with a slash":            {"../x 10102 0 /d s none\n", errdefs.ErrDataLoss, `has a '/'`},
		"name with an escape":          {"com.\x1b[2Jx 10102 0 /d s none\n", errdefs.ErrDataLoss, `"com.\x1b[2Jx" has a '\x1b'`},
		"name with a zero":             {"com.a\x00b 10102 0 /d s none\n", errdefs.ErrDataLoss, `has a '\x00'`},
		"name that is not UTF-8":       {"com.\xff 10102 0 /d s none\n", errdefs.ErrDataLoss, `has a 'ÿ'`},
		"name with a blank of Unicode": {"com.a\u00a0b 10102 0 /d s none\n", errdefs.ErrDataLoss, "names of packages are"},
		"name of a directory":          {".. 10102 0 /d s none\n", errdefs.ErrDataLoss, `".." is a directory's`},
		"long name":                    {long + "a 10102 0 /d s none\n", errdefs.ErrDataLoss, "has 256 bytes; want at most 255"},
		"very long name":               {strings.Repeat("a", 1<<20) + " 1 0 /d s none\n", errdefs.ErrDataLoss, `aaa..." has 1048576 bytes`},
		"no uid":                       {"com.a x 0 /d s none\n", errdefs.ErrDataLoss, `com.a has the uid "x"; want one of user 0, 0..19999`},
		"negative uid":                 {"com.a -1 0 /d s none\n", errdefs.ErrDataLoss, "uid"},
		"uid of another user":          {"com.a 1010101 0 /d s none\n", errdefs.ErrDataLoss, "uid"},
		"uid of a sandbox":             {"com.a 20000 0 /d s none\n", errdefs.ErrDataLoss, "uid"},
		"uid of 33 bits":               {"com.a 4294967296 0 /d s none\n", errdefs.ErrDataLoss, "uid"},
		"debuggable":                   {"com.a 10102 2 /d s none\n", errdefs.ErrDataLoss, `"2" for debuggable; want 0 or 1`},
		"gids":                         {"com.a 10102 0 /d s 3003,,3005\n", errdefs.ErrDataLoss, `the gids "3003,,3005"`},
		"twice":                        {whole + strings.ReplaceAll(old, ".old", ".game"), errdefs.ErrDataLoss, "line 6: com.example.game is in line 1 already"},
		"too many":                     {many(packages.MaxPackages + 1), errdefs.ErrOutOfRange, "line 20001"},
		"too long":                     {strings.Repeat("#", packages.MaxBytes+1), errdefs.ErrOutOfRange, "2097152 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := packages.Parse(strings.NewReader(tt.text))
			if !errors.Is(err, tt.class) || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 1000 {
				t.Errorf("%v, %v; want a %v that says %q", table, err, tt.class, tt.want)
			}
		})
	}
	if table := parse(t, long+" 0 0 /d s none\n"+many(packages.MaxPackages-1)); table.Len() != packages.MaxPackages {
		t.Errorf("%d packages are in the longest list", table.Len())
	}
	if _, err := packages.Parse(iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the reader's error comes as %v", err)
	}
}

// many makes a list.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("p" + strconv.Itoa(i) + " " + strconv.Itoa(10000+i%10000) + " 0 /d s none\n")
	}
	return b.String()
}

// TestParseTestphone reads what testphone's package manager writes.
func TestParseTestphone(t *testing.T) {
	table := parse(t, newGuest(t).boot().list())
	launcher, found := table.ByName("com.android.launcher")
	if !found || packages.KindOf(launcher.AppID) != packages.App || launcher.Installer != "@system" || launcher.DataDir != "/data/user/0/com.android.launcher" {
		t.Errorf("the launcher is known, %v: %+v", found, launcher)
	}
}

func TestUIDs(t *testing.T) {
	for _, tt := range []struct {
		uid, user, appID, owner uint32
		kind                    packages.Kind
	}{
		{0, 0, 0, 0, packages.System},
		{1000, 0, 1000, 1000, packages.System},
		{9999, 0, 9999, 9999, packages.System},
		{10000, 0, 10000, 10000, packages.App},
		{19999, 0, 19999, 19999, packages.App},
		{20000, 0, 20000, 10000, packages.Sandbox},
		{29999, 0, 29999, 19999, packages.Sandbox},
		{30000, 0, 30000, 30000, packages.Other},
		{89999, 0, 89999, 89999, packages.Other},
		{90000, 0, 90000, 90000, packages.Isolated},
		{99999, 0, 99999, 99999, packages.Isolated},
		{1010123, 10, 10123, 10123, packages.App},
		{1020123, 10, 20123, 10123, packages.Sandbox},
		{1099000, 10, 99000, 99000, packages.Isolated},
		{1001000, 10, 1000, 1000, packages.System},
		{4294967295, 42949, 67295, 67295, packages.Other}, // -1
	} {
		user, appID := packages.SplitUID(tt.uid)
		if kind, owner := packages.KindOf(appID), packages.Owner(tt.uid); user != tt.user || appID != tt.appID || kind != tt.kind || owner != tt.owner || packages.KindOf(tt.uid) != kind {
			t.Errorf("%d is app id %d (%v) of user %d, judged as %d; want %+v", tt.uid, appID, kind, user, owner, tt)
		}
	}
}

// FuzzParse reads what a guest may write.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"", "\n", whole, old, old + "\n", many(3), "a.b 1 0 x y 1,2 0 -1 1\n", "com.\xff 1 0 x y none\n", "a 10000 0 / s none\r\nb 10000 0 / s none\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := packages.Parse(strings.NewReader(text))
		if err != nil {
			if table != nil || !errdefs.IsDataLoss(err) && !errdefs.IsOutOfRange(err) {
				t.Fatalf("%v, %v", table, err)
			}
			return
		}
		// All that is there comes from its line, is found by both keys, and can be printed.
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if table.Len() != len(lines) || len(table.All()) != len(lines) {
			t.Fatalf("%d packages are in %d lines of %q", table.Len(), len(lines), text)
		}
		for _, line := range lines {
			name := strings.TrimLeft(line, " \t\v\f\r")
			name = name[:strings.IndexAny(name, " \t\v\f\r")]
			p, found := table.ByName(name)
			if !found || p.Name != name || p.AppID > packages.LastApp || len(name) > packages.MaxName {
				t.Fatalf("%q is found %v as %+v", name, found, p)
			}
			if !slices.Contains(names(table.ByAppID(p.AppID)), name) || !slices.Contains(table.AppIDs(), p.AppID) {
				t.Fatalf("%d is not the app id of %q", p.AppID, name)
			}
		}
		if !slices.IsSorted(names(table.All())) {
			t.Fatalf("in disorder: %q", names(table.All()))
		}
	})
}

// BenchmarkParse reads a usual list, and the worst that a guest may write: as long as one may be, and right.
func BenchmarkParse(b *testing.B) {
	groups := strings.Repeat("3003,", (packages.MaxBytes/packages.MaxPackages-40)/5) + "3003"
	for name, text := range map[string]string{
		"usual": strings.ReplaceAll(many(500), "/d s none", "/data/user/0/com.example.package default:privapp:targetSdkVersion=34 3003,1065 0 34 1 com.android.vending"),
		"worst": strings.ReplaceAll(many(packages.MaxPackages), "none", groups),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := packages.Parse(strings.NewReader(text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
