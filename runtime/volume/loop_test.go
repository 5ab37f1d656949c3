package volume_test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestAttachDetachesItself(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	loop, err := volume.Attach(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if used, err := volume.Attached(path); err != nil || !used {
		t.Errorf("Attached = %v, %v while it is", used, err)
	}
	if err := loop.Close(); err != nil {
		t.Fatal(err)
	}
	detached(t, path)
}

// TestAttachUnderContention has many attach at once, as a host does that starts all its phones.
func TestAttachUnderContention(t *testing.T) {
	testenv.Root(t)
	first := create(t)
	var g errgroup.Group
	for i := range 16 {
		path := filepath.Join(filepath.Dir(first), fmt.Sprintf("data-%d.img", 2+i))
		if err := volume.Create(t.Context(), path, volume.MinBytes); err != nil {
			t.Fatal(err)
		}
		g.Go(func() error {
			for range 10 {
				loop, err := volume.Attach(t.Context(), path)
				if err != nil {
					return err
				}
				if err := loop.Close(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// TestOneDeviceForAVolume wants everything refused that would work on an image while a loop device has it.
func TestOneDeviceForAVolume(t *testing.T) {
	testenv.Root(t)
	path := create(t)
	damage(t, path)
	const mountedBytes = 1 << 20 // where mounting has something to write
	before := sum(t, path, mountedBytes)
	for _, holder := range []struct {
		name string
		hold func(t *testing.T) (release func())
	}{
		{"a guest's", func(t *testing.T) func() {
			dir := mounted(t, path)
			return func() {
				unmount(t, dir)
				detached(t, path)
			}
		}},
		{"ours", func(t *testing.T) func() {
			m := open(t, path, true)
			return func() {
				closed(t, m)
				detached(t, path)
			}
		}},
		{"another's, without a lock", func(t *testing.T) func() {
			losetup := testenv.Tool(t, "losetup")
			out, err := exec.CommandContext(t.Context(), losetup, "--find", "--show", path).Output()
			if err != nil {
				t.Fatal(err)
			}
			device := string(out[:len(out)-1])
			return func() {
				if err := exec.Command(losetup, "--detach", device).Run(); err != nil {
					t.Error(err)
				}
			}
		}},
	} {
		t.Run(holder.name, func(t *testing.T) {
			release := holder.hold(t)
			defer release()
			t.Run("refused", func(t *testing.T) {
				for name, do := range map[string]func() error{
					"Attach": func() error { _, err := volume.Attach(t.Context(), path); return err },
					"Open":   func() error { _, err := volume.Open(t.Context(), path, false); return err },
					"Check":  func() error { _, err := volume.Check(t.Context(), path); return err },
					"Clone":  func() error { _, err := volume.Clone(t.Context(), path, path+"2"); return err },
					"Remove": func() error { return volume.Remove(t.Context(), path) },
				} {
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						if err := do(); !errors.Is(err, volume.ErrInUse) || !errdefs.IsFailedPrecondition(err) {
							t.Errorf("%s = %v, want a failed precondition", name, err)
						}
					})
				}
			})
		})
	}
	if sum(t, path, mountedBytes) != before {
		t.Error("the image was changed while a loop device had it")
	}
}
