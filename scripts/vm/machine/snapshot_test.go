package machine

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// archive makes a tar file with one file of that text.
func archive(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "payload.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.WriteHeader(&tar.Header{Name: "dir/file", Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

// resumed resumes a machine that ends with the test.
func resumed(t *testing.T, c Config, s Snapshot) *Machine {
	t.Helper()
	m, err := Resume(t.Context(), c, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestVMSnapshot(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) { testSnapshot(t, config(t, arch, "6.12")) })
	}
}

func testSnapshot(t *testing.T, c Config) {
	two(t)
	c.Accelerator = TCG
	c.Payload = archive(t, "first")
	m := started(t, c)
	if got := sh(t, m, "cat /run/payload/dir/file; echo kept > /tmp/kept"); got != "first" {
		t.Errorf("payload: got %q, want first", got)
	}
	saved, err := m.Save(bounded(t), filepath.Join(t.TempDir(), "snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	read, err := Load(saved.Dir)
	if err != nil || read != saved {
		t.Fatalf("Load: got %+v, %v, want %+v", read, err, saved)
	}

	// Two at once, neither of which sees the other, with the present time and random numbers of their own.
	c.Payload = archive(t, "second")
	one, two := resumed(t, c, saved), resumed(t, c, saved)
	sh(t, one, "echo changed > /tmp/kept")
	if got := sh(t, two, "cat /tmp/kept /run/payload/dir/file"); got != "kept\nsecond" {
		t.Errorf("resumed: got %q, want what was saved and the new payload", got)
	}
	random := "head -c 16 /dev/urandom | md5sum"
	if a, b := sh(t, one, random), sh(t, two, random); a == b {
		t.Errorf("two machines of one snapshot have the same random numbers: %s", a)
	}
	before := time.Now().Unix()
	now, err := strconv.ParseInt(sh(t, one, "date +%s"), 10, 64)
	if after := time.Now().Unix(); err != nil || now < before-1 || now > after+1 {
		t.Errorf("the clock shows %d, want %d to %d (%v)", now, before, after, err)
	}
	if err := errors.Join(one.Close(), two.Close()); err != nil {
		t.Fatal(err)
	}

	other := c
	other.Variant.Cmdline = []string{"psi=0"}
	if m, err := Resume(t.Context(), other, saved); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a snapshot of another command line: got %v, %v, want ErrFailedPrecondition", m, err)
	}
	// A resumed machine restarts like any other.
	again := resumed(t, c, saved)
	if err := again.Reset(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if err := again.WaitBoot(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, again, "cat /run/payload/dir/file; ls /tmp"); got != "second" {
		t.Errorf("after a reset: got %q, want the payload and an empty /tmp", got)
	}
}
