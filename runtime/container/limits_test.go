package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/image"
)

// limit returns what the kernel has for one of a phone's cgroups: by the file's name in cgroup v1, or that in v2.
func (h *host) limit(cgroup, v1, v2 string) string {
	h.t.Helper()
	for _, dir := range cgroupDirs(h.config.CgroupRoot + "/" + cgroup) {
		for _, file := range []string{v1, v2} {
			if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				return strings.TrimSuffix(strings.TrimSpace(string(text)), " 100000")
			}
		}
	}
	h.t.Fatalf("nothing limits %s by %s", cgroup, v1)
	return ""
}

// TestSetLimits changes the limits of a guest that runs, up and down: the kernel has them at once, in the guest's own cgroup and above
// it, and memory is never taken away.
func TestSetLimits(t *testing.T) { newHost(t).setLimits(t) }

func (h *host) setLimits(t *testing.T) {
	p := h.phone("p1", 0)
	if err := h.engine.SetLimits(t.Context(), p); err != nil {
		t.Errorf("of a phone that was never started: %v", err)
	}
	h.start(p)
	h.booted("p1")
	before := h.observe("p1")
	if got := before.Guest.MemoryBytes; got != p.MemoryBytes {
		t.Errorf("Observe says %d bytes of memory, want %d", got, p.MemoryBytes)
	}
	for _, tt := range []struct {
		name         string
		cpus         float64
		weight       uint32
		memory, want uint64
	}{
		{"more", 1.9, 300, 384 << 20, 384 << 20},
		{"less", 0.5, 50, 128 << 20, 384 << 20},
		{"the same again", 0.5, 50, 128 << 20, 384 << 20},
		{"more again", 1.2, 100, 512 << 20, 512 << 20},
	} {
		p.VCPUs, p.CPUWeight, p.MemoryBytes = tt.cpus, tt.weight, tt.memory
		if err := h.engine.SetLimits(t.Context(), p); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		for _, cgroup := range []string{"p1/guest", "p1/guest/ctr"} {
			if got, want := h.limit(cgroup, "cpu.cfs_quota_us", "cpu.max"), fmt.Sprint(int(tt.cpus*100_000)); got != want {
				t.Errorf("%s: CPU quota of %s is %s, want %s", tt.name, cgroup, got, want)
			}
			if got, want := h.limit(cgroup, "memory.limit_in_bytes", "memory.max"), fmt.Sprint(tt.want); got != want {
				t.Errorf("%s: memory of %s is %s, want %s", tt.name, cgroup, got, want)
			}
		}
		if got, want := h.limit("p1", "cpu.shares", "cpu.weight"), []string{fmt.Sprint(tt.weight), fmt.Sprint(tt.weight * 1024 / 100)}; !slices.Contains(want, got) {
			t.Errorf("%s: weight is %s, want one of %s", tt.name, got, want)
		}
		if got := h.observe("p1").Guest.MemoryBytes; got != tt.want {
			t.Errorf("%s: Observe says %d bytes of memory, want %d", tt.name, got, tt.want)
		}
	}
	if after := h.observe("p1"); after.Guest.PID != before.Guest.PID || after.Display.PID != before.Display.PID {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	if err := h.engine.RemoveGuest(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	p.MemoryBytes, p.BootGeneration = 128<<20, 2
	h.start(p)
	for _, cgroup := range []string{"p1/guest", "p1/guest/ctr"} {
		if got, want := h.limit(cgroup, "memory.limit_in_bytes", "memory.max"), fmt.Sprint(128<<20); got != want {
			t.Errorf("after a start with less memory that of %s is %s, want %s", cgroup, got, want)
		}
	}
}

// TestWhatAnEndLeavesBehind reads what explains the end of a guest, with an engine that was not there when it ended: the kernel's count
// of processes that it killed for want of memory, the guest's last lines, and the caller's note.
func TestWhatAnEndLeavesBehind(t *testing.T) { newHost(t).endAndLook(t, "p1") }

func (h *host) endAndLook(t *testing.T, id string) {
	p := h.phone(id, 1)
	p.Note = `{"screen":"320x480"}`
	h.start(p)
	h.booted(id)
	if got := h.observe(id).Guest; got.OOMKills != 0 || got.Note != p.Note {
		t.Errorf("guest = %+v, want no kills and the note", got)
	}
	if code, out := h.exec(id, "sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"); code != 137 {
		t.Fatalf("the eater exited with %d: %s", code, out)
	}
	// The kernel may count another kill while the first victim is still giving its memory back.
	kills := h.observe(id).Guest.OOMKills
	if kills == 0 {
		t.Error("the kernel has killed no process, want the eater")
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range h.engine.Events(t.Context()) {
			if g, err := h.engine.Observe(t.Context(), id); err == nil && g.Guest.State == container.TaskStopped {
				return
			}
		}
	}()
	h.exec(id, "sh", "-c", "echo the last words > /proc/1/fd/1; reboot -p")
	<-ended
	tail, err := h.engine.LogTail(t.Context(), id, container.Guest, time.Time{}, 4096)
	if err != nil || !strings.Contains(tail, "the last words") || len(tail) > 4096 {
		t.Errorf("the log ends with %q, %v", tail, err)
	}
	if tail, err := h.engine.LogTail(t.Context(), id, container.Guest, time.Now(), 4096); err != nil || tail != "" {
		t.Errorf("of no time at all it is %q, %v", tail, err)
	}
	if err := h.engine.Close(); err != nil {
		t.Fatal(err)
	}
	h.engine = h.open()
	got := h.observe(id).Guest
	if got.State != container.TaskStopped || got.OOMKills != kills || got.Note != p.Note {
		t.Errorf("guest = %+v, want it stopped, %d kills and the note", got, kills)
	}
	if err := h.engine.RemoveGuest(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := h.observe(id).Guest; got.OOMKills != 0 {
		t.Errorf("a guest that was removed has %d kills", got.OOMKills)
	}
	if err := h.engine.SetLimits(t.Context(), p); err != nil {
		t.Errorf("limits of a phone that has ended: %v", err)
	}
}

// TestRestartWithAnotherImage starts a phone with another image on the same data: the root of the former one goes with its container,
// and the new guest never sees it.
func TestRestartWithAnotherImage(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	h.booted("p1")
	h.exec("p1", "sh", "-c", "echo kept > /data/file")
	first := h.snapshots("p1")
	other := h.copyImage("phonehost.dev/testphone:other")
	if err := h.engine.Kill(t.Context(), "p1", container.Guest); err != nil {
		t.Fatal(err)
	}
	if err := h.engine.RemoveGuest(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	p.Image, p.ImageDigest, p.BootGeneration = other.Name, other.Digest, 2
	h.start(p)
	h.booted("p1")
	if got := h.snapshots("p1"); len(first) != 1 || len(got) != 1 || got[0] == first[0] {
		t.Errorf("roots: %v, then %v; want another one in place of the first", first, got)
	}
	if _, out := h.exec("p1", "cat", "/data/file"); strings.TrimSpace(out) != "kept" {
		t.Errorf("the data after it: %q", out)
	}
	if got := h.observe("p1").Guest.ImageDigest; got != other.Digest {
		t.Errorf("the guest is of %s, want %s", got, other.Digest)
	}
}

// copyImage lists the image of this host's platform by a name and a digest of its own: that of the manifest, not of the index.
func (h *host) copyImage(name string) image.Image {
	h.t.Helper()
	ctx, client := h.t.Context(), h.engine.Client()
	stored, err := client.ImageService().Get(ctx, h.image.Name)
	if err != nil {
		h.t.Fatal(err)
	}
	manifests, err := images.Children(ctx, client.ContentStore(), stored.Target)
	if err != nil {
		h.t.Fatal(err)
	}
	i := slices.IndexFunc(manifests, func(d ocispec.Descriptor) bool { return d.Platform != nil && platforms.Default().Match(*d.Platform) })
	if i < 0 {
		h.t.Fatalf("%s has no manifest for this host among %v", h.image.Name, manifests)
	}
	if _, err := client.ImageService().Create(ctx, images.Image{Name: name, Target: manifests[i]}); err != nil {
		h.t.Fatal(err)
	}
	return image.Image{Name: name, Digest: manifests[i].Digest.String()}
}
