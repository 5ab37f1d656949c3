package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestPromised(t *testing.T) {
	for _, tt := range []struct {
		name, list, need string
		want             bool
	}{
		{"nothing promised", "", "root", false},
		{"promised alone", "root", "root", true},
		{"promised among others", "ffmpeg, root,containerd", "root", true},
		{"all", "all", "anything", true},
		{"another", "ffmpeg", "ff", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := promised(tt.list, tt.need); got != tt.want {
				t.Errorf("promised(%q, %q) = %v, want %v", tt.list, tt.need, got, tt.want)
			}
		})
	}
}

func TestContainerdSurvivesAKill(t *testing.T) {
	s := Containerd(t)
	c := s.Client(t)
	if _, err := c.Version(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if _, err := c.Version(t.Context()); err == nil {
		t.Error("a killed containerd answered")
	}
	s.Restart()
	if ok, err := c.IsServing(t.Context()); err != nil || !ok {
		t.Errorf("after the restart: serving %v, %v", ok, err)
	}
}

func TestPrebuiltProgramsAreTaken(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(BinariesEnv, dir)
	t.Setenv("PHONEHOST_TEST_REQUIRE", "")
	want := filepath.Join(dir, "phone-log")
	if err := os.WriteFile(want, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := Binary(t, "runtime/cmd/phone-log"); got != want {
		t.Errorf("Binary = %q, want %q", got, want)
	}
	skipped := false
	t.Run("missing", func(t *testing.T) {
		defer func() { skipped = t.Skipped() }()
		Binary(t, "agent/cmd/phonectl")
	})
	if !skipped {
		t.Error("a program that was not built before did not skip the test")
	}
}

func TestToolFindsPrograms(t *testing.T) {
	want, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	if got := Tool(t, "sh"); got != want {
		t.Errorf("Tool(sh) = %q, want %q", got, want)
	}
}
