package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChoose(t *testing.T) {
	withScope, without := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(withScope, DelegatedRoot), 0o755); err != nil {
		t.Fatal(err)
	}
	named := func(mount string) hierarchy {
		return hierarchy{mount: mount, controllers: []string{"rw", "name=systemd"}}
	}
	for _, tt := range []struct {
		name    string
		found   []hierarchy
		systemd bool
		want    Place
	}{
		{"no systemd", []hierarchy{{mount: withScope, v2: true}}, false, Place{Root: PlainRoot, Former: DelegatedRoot}},
		{"v2 with the scope", []hierarchy{{mount: withScope, v2: true}}, true, Place{Root: DelegatedRoot, Former: PlainRoot, Systemd: true, Delegated: true}},
		{"v2 without", []hierarchy{{mount: without, v2: true}}, true, Place{Root: PlainRoot, Former: DelegatedRoot, Systemd: true}},
		{"v1 with the scope", []hierarchy{named(withScope)}, true, Place{Root: DelegatedRoot, Former: PlainRoot, Systemd: true, Delegated: true}},
		{"only what the agent made itself", []hierarchy{{mount: withScope, controllers: []string{"memory"}}, named(without)}, true,
			Place{Root: PlainRoot, Former: DelegatedRoot, Systemd: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, choose(tt.found, tt.systemd)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestIsWithin(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       bool
	}{
		{"v2", "0::/phonehost.slice/phonehost-phones.scope\n", true},
		{"below", "0::/phonehost.slice/phonehost-phones.scope/.holder\n", true},
		{"v1 among others", "4:memory:/\n1:name=systemd:/phonehost.slice/phonehost-phones.scope\n0::/\n", true},
		{"another with the same beginning", "0::/phonehost.slice/phonehost-phones.scope2\n", false},
		{"the service", "0::/system.slice/phonehost-phones.service\n", false},
		{"rubbish", "0\n\n::", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := isWithin(tt.text, DelegatedRoot); got != tt.want {
				t.Errorf("isWithin(%q) = %t", tt.text, got)
			}
		})
	}
}
