package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/debian"
	"github.com/phonehost/phonehost/scripts/vm/lab"
)

func TestChoose(t *testing.T) {
	arches, series := []string{"amd64", "arm64"}, []string{"6.1", "6.12"}
	for name, tt := range map[string]struct {
		words, arches, series []string
		bad                   bool
	}{
		"all":     {arches: arches, series: series},
		"arch":    {words: []string{"arm64"}, arches: []string{"arm64"}, series: series},
		"series":  {words: []string{"6.12"}, arches: arches, series: []string{"6.12"}},
		"both":    {words: []string{"6.1", "amd64"}, arches: []string{"amd64"}, series: []string{"6.1"}},
		"unknown": {words: []string{"5.4"}, bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			a, s, err := choose(tt.words, arches, series)
			if errdefs.IsInvalidArgument(err) != tt.bad {
				t.Fatal(err)
			}
			if diff := cmp.Diff([][]string{tt.arches, tt.series}, [][]string{a, s}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPrint(t *testing.T) {
	now := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	hash := strings.Repeat("ab", 32)
	runc := debian.Package{Name: "runc", Version: "1.1.5-1", SHA256: hash}
	root := lab.Resolved{Set: "root", Arch: "arm64", Named: []debian.Package{runc},
		Resolution: debian.Resolution{At: now, Packages: []debian.Package{runc, {Name: "libc6"}}}}
	changed, first := root, root
	changed.Changes, first.First = []string{"runc 1.1.4-1 -> 1.1.5-1"}, true
	for name, tt := range map[string]struct {
		print func(*bytes.Buffer)
		want  []string
	}{
		"assets": {func(b *bytes.Buffer) {
			printAssets(b, []asset.Asset{{Name: "kernel-6.1-arm64", Key: "0123", Bytes: 48 << 20, Used: now.Add(-3 * time.Hour)}, {Name: "x", Bytes: 4096, Used: now}}, now)
		}, []string{"kernel-6.1-arm64  0123  48 MiB  3 hours ago", "4 KiB", "0 seconds ago"}},
		"no assets":       {func(b *bytes.Buffer) { printAssets(b, nil, now) }, []string{"nothing is built"}},
		"sets":            {func(b *bytes.Buffer) { printSets(b, []lab.Resolved{root}) }, []string{"root/arm64", "2026-01-05", "runc", "1.1.5-1", hash[:16], "and 1 that these need"}},
		"nothing changed": {func(b *bytes.Buffer) { printChanges(b, []lab.Resolved{root}) }, []string{"nothing changed: 1 sets"}},
		"changed":         {func(b *bytes.Buffer) { printChanges(b, []lab.Resolved{changed}) }, []string{"root/arm64:\n  runc 1.1.4-1 -> 1.1.5-1\n"}},
		"first":           {func(b *bytes.Buffer) { printChanges(b, []lab.Resolved{first}) }, []string{"first time", "  runc 1.1.5-1\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			tt.print(&out)
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("lacks %q:\n%s", want, out.String())
				}
			}
		})
	}
}

// TestCommands runs what needs no mirror.
func TestCommands(t *testing.T) {
	t.Setenv("PHONEHOST_VM_MIRROR", "http://127.0.0.1:1/debian")
	cache := filepath.Join(t.TempDir(), "cache")
	run := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code := execute(append([]string{"--cache", cache}, args...), nil, &out, &out); code != want {
			t.Errorf("vm %s: exit %d, want %d:\n%s", strings.Join(args, " "), code, want, out.String())
		}
		return out.String()
	}
	for _, tt := range []struct {
		code int
		args string
		want string
	}{
		{0, "clean", "nothing in"},
		{0, "list", "nothing is built"},
		{2, "build 5.4", `"5.4"`},
		{2, "biuld", "biuld"},
		{2, "cc riscv64", "amd64, arm64"},
		{0, "--help", "lock"},
		{0, "clean", "emptied"},
	} {
		if out := run(tt.code, strings.Fields(tt.args)...); !strings.Contains(out, tt.want) {
			t.Errorf("vm %s lacks %q:\n%s", tt.args, tt.want, out)
		}
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) != 1 {
		t.Errorf("after clean: %v, %v", left, err)
	}
}
