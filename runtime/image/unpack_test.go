package image

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// TestUnpackMendsLayersOfAnEarlierBoot makes a layer what a power cut leaves: committed, and its file empty.
func TestUnpackMendsLayersOfAnEarlierBoot(t *testing.T) {
	s, client := newStore(t)
	ctx := t.Context()
	imported, err := s.Import(ctx, "", bytes.NewReader(newLayout(t, "example.com/mend:1", runtime.GOARCH).archive(t)))
	if err != nil {
		t.Fatal(err)
	}
	stored, err := client.ImageService().Get(ctx, imported.Name)
	if err != nil {
		t.Fatal(err)
	}
	top, err := s.unpacker.Unpack(ctx, stored)
	if err != nil {
		t.Fatal(err)
	}
	sn := client.SnapshotService("overlayfs")
	info, err := sn.Stat(ctx, top)
	if err != nil {
		t.Fatal(err)
	}
	if info.Labels[labelDurable] == "" || info.Labels[labelBoot] != s.unpacker.boot {
		t.Errorf("the layer of an imported image has the labels %v", info.Labels)
	}

	file := filepath.Join(directory(t, sn, top), "hello")
	for name, tt := range map[string]struct {
		labels map[string]string
		mended bool
	}{
		"unpacked before the power cut":  {map[string]string{labelBoot: "another"}, true},
		"unpacked by something else":     {map[string]string{}, true},
		"durable before the power cut":   {map[string]string{labelBoot: "another", labelDurable: "true"}, false},
		"unpacked by an agent that died": {map[string]string{labelBoot: s.unpacker.boot}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := sn.Update(ctx, snapshots.Info{Name: top, Labels: tt.labels}, "labels"); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := s.unpacker.Unpack(ctx, stored); err != nil {
				t.Fatal(err)
			}
			file = filepath.Join(directory(t, sn, top), "hello")
			text, err := os.ReadFile(file)
			if err != nil || (len(text) > 0) != tt.mended {
				t.Errorf("the file holds %q (%v), want it unpacked anew: %v", text, err, tt.mended)
			}
			if info, err := sn.Stat(ctx, top); err != nil || info.Labels[labelDurable] == "" {
				t.Errorf("afterwards the layer has the labels %v (%v)", info.Labels, err)
			}
		})
	}
}

// directory is where the files of a layer without others below it lie.
func directory(t *testing.T, sn snapshots.Snapshotter, layer string) string {
	t.Helper()
	// Without the label containerd's garbage collector, which ends of leases set off, may take the view away first.
	root := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
	mounts, err := sn.View(t.Context(), "look", layer, root)
	if err != nil {
		t.Fatal(err)
	}
	if err := sn.Remove(t.Context(), "look"); err != nil {
		t.Fatal(err)
	}
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		t.Fatalf("a single layer is mounted as %+v", mounts)
	}
	return mounts[0].Source
}
