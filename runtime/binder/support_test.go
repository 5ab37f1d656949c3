package binder

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const (
	withBinderfs = "nodev\tsysfs\nnodev\tbinder\n\text4\n"
	numbers      = "Character devices:\n  1 mem\n 10 misc\n510 binder\n\nBlock devices:\n  7 loop\n511 binder\n"
)

func text(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

func node(major, minor uint32) *fstest.MapFile {
	return &fstest.MapFile{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Sys: &syscall.Stat_t{Rdev: unix.Mkdev(major, minor)}}
}

// pool is a host whose /dev has nodes of the driver by these names, the minor numbers being their places from 1.
func pool(names ...string) fstest.MapFS {
	host := fstest.MapFS{"proc/filesystems": text("\text4\n"), "dev/null": node(1, 3)}
	for i, name := range names {
		host["dev/"+name] = node(10, uint32(i+1))
	}
	return host
}

func triple(family, number string, minors ...uint32) Triple {
	d := func(name string, minor uint32) Device { return Device{"/dev/" + family + name + number, 10, minor} }
	return Triple{family + "binder" + number, d("binder", minors[0]), d("hwbinder", minors[1]), d("vndbinder", minors[2])}
}

func TestRead(t *testing.T) {
	with := func(host fstest.MapFS, name string, file *fstest.MapFile) fstest.MapFS {
		host[name] = file
		return host
	}
	binderfs := func() fstest.MapFS {
		return with(with(pool(), "proc/filesystems", text(withBinderfs)), "proc/devices", text(numbers))
	}
	tests := []struct {
		name string
		host fstest.MapFS
		want Support
	}{
		{"nothing", pool(), Support{}},
		{"binderfs without a list", binderfs(), Support{Kind: FS, Major: 510}},
		{"binderfs with an empty list", with(binderfs(), "sys/module/binder_linux/parameters/devices", text("\n")), Support{Kind: FS, Major: 510, Defaults: []string{}}},
		{"binderfs, module", with(binderfs(), "sys/module/binder_linux/parameters/devices", text("binder,hwbinder,vndbinder\n")),
			Support{Kind: FS, Major: 510, Defaults: []string{"binder", "hwbinder", "vndbinder"}}},
		{"binderfs, built in", with(binderfs(), "sys/module/binder/parameters/devices", text("anbox-binder\n")),
			Support{Kind: FS, Major: 510, Defaults: []string{"anbox-binder"}}},
		{"one triple", pool("binder", "hwbinder", "vndbinder"), Support{Kind: Pool, Triples: []Triple{triple("", "", 1, 2, 3)}}},
		{"several, in the order of numbers",
			pool("binder10", "hwbinder10", "vndbinder10", "binder2", "hwbinder2", "vndbinder2", "binder", "hwbinder", "vndbinder"),
			Support{Kind: Pool, Triples: []Triple{triple("", "", 7, 8, 9), triple("", "2", 4, 5, 6), triple("", "10", 1, 2, 3)}}},
		{"another family", pool("anbox-binder", "anbox-hwbinder", "anbox-vndbinder", "binder", "hwbinder", "vndbinder"),
			Support{Kind: Pool, Triples: []Triple{triple("", "", 4, 5, 6), triple("anbox-", "", 1, 2, 3)}}},
		{"incomplete", pool("binder", "hwbinder", "vndbinder1", "binder3"), Support{}},
		{"a file instead of a node", with(pool("binder", "hwbinder"), "dev/vndbinder", text("")), Support{}},
		{"a node of another driver", with(pool("binder", "hwbinder"), "dev/vndbinder", node(1, 3)), Support{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Read(tt.host)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("support (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	tests := []struct {
		name, says string
		host       fstest.MapFS
	}{
		{"no list of file systems", "file systems", fstest.MapFS{}},
		{"binderfs without devices", "device numbers", fstest.MapFS{"proc/filesystems": text(withBinderfs)}},
		{"binderfs without a number", "no number", fstest.MapFS{"proc/filesystems": text(withBinderfs), "proc/devices": text("Block devices:\n511 binder\n")}},
		{"a number that is none", "number of binder", fstest.MapFS{"proc/filesystems": text(withBinderfs), "proc/devices": text("Character devices:\nx binder\n")}},
		{"no /dev", "device nodes", fstest.MapFS{"proc/filesystems": text("ext4\n")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := Read(tt.host); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%+v %v, want an error that says %q", got, err, tt.says)
			}
		})
	}
}

func TestProbeThisHost(t *testing.T) {
	s, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	if (s.Kind == Pool) != (len(s.Triples) > 0) || (s.Kind == FS) != (s.Major > 0) {
		t.Errorf("a support that cannot be: %+v", s)
	}
	t.Logf("%s, %d triples", s.Kind, len(s.Triples))
}

func TestGrant(t *testing.T) {
	two := Support{Kind: Pool, Triples: []Triple{{Name: "binder"}, {Name: "binder1"}}}
	tests := []struct {
		name    string
		support Support
		own     string
		used    []string
		want    string
		max     int
		class   error
	}{
		{"nothing", Support{}, "", nil, "", 0, nil},
		{"binderfs", Support{Kind: FS, Major: 510}, "", nil, "binderfs", 3, nil},
		{"binderfs with names of its own", Support{Kind: FS, Defaults: []string{"hwbinder", "a", "b"}}, "", []string{"binderfs"}, "binderfs", 5, nil},
		{"first", two, "", nil, "binder", 0, nil},
		{"next", two, "", []string{"binder"}, "binder1", 0, nil},
		{"own again", two, "binder1", nil, "binder1", 0, nil},
		{"own that another has", two, "binder1", []string{"binder1"}, "binder", 0, nil},
		{"own that is gone", two, "binder7", []string{"binder7"}, "binder", 0, nil},
		{"none left", two, "", []string{"binder1", "binder"}, "", 0, errdefs.ErrResourceExhausted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, err := tt.support.Grant(tt.own, tt.used)
			if !errors.Is(err, tt.class) || g.Label() != tt.want {
				t.Fatalf("grant %q %v, want %q %v", g.Label(), err, tt.want, tt.class)
			}
			if i := g.Instance; i != nil && (i.Max != tt.max || i.Major != tt.support.Major) {
				t.Errorf("instance %+v, want at most %d devices", *i, tt.max)
			}
			var refusal *Refusal
			if err != nil && (!errors.As(err, &refusal) || refusal.Reason() != Reason) {
				t.Errorf("error %v has no reason", err)
			}
		})
	}
}
