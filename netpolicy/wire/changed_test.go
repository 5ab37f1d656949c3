package wire

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRestore gives settings back what they were, but for those that are all links' and those that somebody else has changed.
func TestRestore(t *testing.T) {
	for _, tt := range []struct {
		name           string
		global         bool // kernels before 6.17
		after          []setting
		restored, left []Setting
	}{
		{
			name:     "as they were set",
			restored: []Setting{{"net.ipv4.conf.up-server.forwarding", "0", "0"}, {"net.ipv6.conf.up-server.force_forwarding", "0", "0"}},
		},
		{
			name:     "one set back by somebody else",
			after:    []setting{{path: "ipv4/conf/up-server/forwarding", value: "0"}},
			restored: []Setting{{"net.ipv6.conf.up-server.force_forwarding", "0", "0"}},
		},
		{
			name:     "a host that forwards IPv4 by now",
			after:    []setting{{path: "ipv4/conf/all/forwarding", value: "1"}},
			restored: []Setting{{"net.ipv6.conf.up-server.force_forwarding", "0", "0"}},
			left:     []Setting{{"net.ipv4.conf.up-server.forwarding", "0", "1"}},
		},
		{
			name: "an older kernel", global: true,
			restored: []Setting{{"net.ipv4.conf.up-server.forwarding", "0", "0"}},
			left: []Setting{
				{"net.ipv6.conf.all.forwarding", "0", "1"}, {"net.ipv6.conf.default.accept_ra", "1", "2"},
				{"net.ipv6.conf.lo.accept_ra", "1", "2"}, {"net.ipv6.conf.up-server.accept_ra", "1", "2"},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			if _, err := os.Stat(filepath.Join(sysctls, "ipv6/conf/lo/force_forwarding")); err != nil && !tt.global {
				t.Skip("Linux 6.17 is needed for force_forwarding")
			}
			t.Cleanup(func() {
				if err := (setting{path: "ipv4/conf/all/forwarding", value: "0"}).set(); err != nil {
					t.Error(err)
				}
				resetForwarding(t)
			})
			c := l.config()
			c.Settings = filepath.Join(t.TempDir(), "settings")
			w := open(t, c)
			w.global = tt.global
			for range 2 { // what was before the first change is what counts
				if err := w.Prepare(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range tt.after {
				if err := s.set(); err != nil {
					t.Fatal(err)
				}
			}
			restored, left, err := open(t, c).Restore() // in another process, as it were
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.restored, restored); diff != "" {
				t.Errorf("restored (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.left, left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			for _, s := range restored {
				if text := run(t, "sysctl", "-n", s.Name); text != s.Before+"\n" {
					t.Errorf("%s is %q, want %s", s.Name, text, s.Before)
				}
			}
			if restored, left, err := w.Restore(); err != nil || len(restored)+len(left) != 0 {
				t.Errorf("once more: %v, %v, %v", restored, left, err)
			}
		})
	}
}
