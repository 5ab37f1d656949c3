package debian

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/asset"
)

// real is an Archive in an empty cache that asks the mirror of this machine.
func real(t *testing.T, mirror string) *Archive {
	t.Helper()
	if os.Getenv("PHONEHOST_TEST_VM") == "" {
		t.Skip("the mirror is asked only where PHONEHOST_TEST_VM is set")
	}
	cache, err := asset.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cache.Close() })
	a, err := Open(Config{Cache: cache, Mirror: mirror, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestVMRealPackages(t *testing.T) {
	a := real(t, "")
	req := Request{Arch: "arm64", Suites: []string{"bookworm", "bookworm-security"}, Packages: []string{"busybox-static"}}
	r, err := a.Resolve(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Packages) != 1 || r.Packages[0].Arch != "arm64" {
		t.Fatalf("resolved %+v, want busybox-static of arm64", r.Packages)
	}
	p := r.Packages[0]
	if _, err := a.Fetch(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	t.Run("extract", func(t *testing.T) {
		dir := t.TempDir()
		if err := a.Extract(t.Context(), p, dir, "./bin/busybox"); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(dir, "bin/busybox")); err != nil || info.Size() < 1<<20 {
			t.Errorf("busybox: %v, %v", info, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "usr")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("more was unpacked than asked for: %v", err)
		}
		if err := a.Extract(t.Context(), p, dir, "./no/such/file"); err == nil || !strings.Contains(err.Error(), "no/such/file") {
			t.Errorf("a pattern without a match: %v", err)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		if err := os.Truncate(a.File(p), p.Size/2); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Fetch(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := check(a.File(p), p); err != nil {
			t.Error(err)
		}
	})
	t.Run("left the mirror", func(t *testing.T) {
		old := p
		old.Path, old.SHA256 = strings.Replace(p.Path, "_arm64", "_old_arm64", 1), strings.Repeat("ab", 32)
		if _, err := a.Fetch(t.Context(), Resolution{Packages: []Package{old}}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "busybox-static") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("changed on the mirror", func(t *testing.T) {
		old := p
		old.SHA256 = strings.Repeat("ab", 32)
		if _, err := a.Fetch(t.Context(), Resolution{Packages: []Package{old}}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "Hash Sum") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("closure", func(t *testing.T) {
		req := req
		req.Closure, req.Essential, req.Packages = true, true, []string{"systemd"}
		r, err := a.Resolve(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{"libc6": true, "systemd": true, "libsystemd0": true, "base-files": true, "dpkg": true}
		for _, p := range r.Packages {
			delete(want, p.Name)
		}
		if len(want) > 0 {
			t.Errorf("the closure of systemd lacks %v", want)
		}
	})
	t.Run("missing package", func(t *testing.T) {
		req := req
		req.Packages = []string{"no-such-package"}
		wantNotFound(t, a, req, "no-such-package", "arm64", "bookworm-security", "lab.toml")
	})
	t.Run("missing suite", func(t *testing.T) {
		req := req
		req.Suites = []string{"bookworm", "nosuchsuite"}
		wantNotFound(t, a, req, "nosuchsuite", "arm64", "lab.toml")
	})
	t.Run("missing architecture", func(t *testing.T) {
		req := req
		req.Arch = "sparc"
		wantNotFound(t, a, req, "sparc", "lab.toml")
	})
	t.Run("stopped", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("enough")
		cancel(why)
		req := req
		req.NotBefore = time.Now()
		if _, err := a.Resolve(ctx, req); !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
	})
}

func wantNotFound(t *testing.T, a *Archive, req Request, words ...string) {
	t.Helper()
	_, err := a.Resolve(t.Context(), req)
	if !errdefs.IsNotFound(err) {
		t.Fatalf("got %v, want a not-found error", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v\nlacks %q", err, w)
		}
	}
}

func TestVMMirrorGone(t *testing.T) {
	a := real(t, "http://127.0.0.1:1/debian")
	_, err := a.Resolve(t.Context(), Request{Arch: "amd64", Suites: []string{"bookworm"}, Packages: []string{"hello"}})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "PHONEHOST_VM_MIRROR") {
		t.Errorf("got %v", err)
	}
}
