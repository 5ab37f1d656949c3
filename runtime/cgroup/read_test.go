package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRead reads what kernels write, in both versions, and what they do not.
func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name          string
		v2            bool
		limit, events string // "" means that there is no such file
		wantLimit     uint64
		wantKills     uint64
	}{
		{"v2", true, "268435456\n", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n", 268435456, 2},
		{"v2 without a limit", true, "max\n", "oom_kill 0\n", 0, 0},
		{"v1", false, "134217728\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", 134217728, 7},
		{"v1 without a limit", false, "9223372036854771712\n", "oom_kill_disable 0\nunder_oom 0\n", 0, 0},
		{"gone", true, "", "", 0, 0},
		{"rubbish", true, "x\n", "oom_kill x\n", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mount := t.TempDir()
			tree := &Tree{root: "/root", hierarchies: []hierarchy{
				{mount: t.TempDir(), controllers: []string{"cpu"}}, {mount: mount, v2: tt.v2, controllers: []string{"memory"}},
			}}
			names := map[bool][2]string{true: {"memory.max", "memory.events"}, false: {"memory.limit_in_bytes", "memory.oom_control"}}[tt.v2]
			for file, text := range map[string]string{"guest/" + names[0]: tt.limit, "guest/ctr/" + names[1]: tt.events} {
				if text == "" {
					continue
				}
				path := filepath.Join(mount, "root", "p1", file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := tree.MemoryLimit("p1"); got != tt.wantLimit {
				t.Errorf("limit %d, want %d", got, tt.wantLimit)
			}
			if got := tree.OOMKills("p1"); got != tt.wantKills {
				t.Errorf("%d kills, want %d", got, tt.wantKills)
			}
		})
	}
}

// TestLimit changes the limits of cgroups that exist, and none where they do not.
func TestLimit(t *testing.T) {
	tree := newTree(t)
	if err := tree.Limit("p1", Limits{MemoryBytes: 64 << 20}); err == nil {
		t.Error("the limits of a phone without cgroups were set")
	}
	if err := tree.Create("p1", Limits{MemoryBytes: 64 << 20, CPUQuota: 50_000, CPUPeriod: 100_000}); err != nil {
		t.Fatal(err)
	}
	if err := tree.Limit("p1", Limits{MemoryBytes: 128 << 20, CPUQuota: 80_000, CPUPeriod: 100_000, Weight: 300}); err != nil {
		t.Fatal(err)
	}
	if got := tree.MemoryLimit("p1"); got != 128<<20 {
		t.Errorf("memory limit is %d", got)
	}
	if err := tree.Remove(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
}
