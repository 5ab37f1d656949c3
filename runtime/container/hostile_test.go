package container_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/runtime/container"
)

// TestAGuestThatFillsEverything has a guest fill every path that it can write, in every way, and print without end. Its own bounds
// stop it: its neighbour goes on writing, the host can store what it must, and its file systems grow by no more than was promised.
func TestAGuestThatFillsEverything(t *testing.T) {
	h := newHostOn(t, ownFileSystem(t, filepath.Join(t.TempDir(), "disk.img"), 512<<20))
	hostile, neighbour := h.phone("p1", 0), h.phone("p2", 1)
	hostile.MemoryBytes = 128 << 20
	h.start(hostile)
	h.start(neighbour)
	h.booted("p1")
	h.put("p1", probe(t, runtime.GOARCH), "/data/probe")
	before := h.space()

	ctx, stop := context.WithCancel(t.Context())
	wrote := make(chan error, 1)
	go func() { wrote <- h.keepWriting(ctx, "p2") }()
	h.exec("p1", "setprop", "debug.testphone.flood", strconv.Itoa(64<<20))
	// /dev/shm and /tmp have their own bounds; together with the rest they fit into the guest's memory.
	writable := []string{"/data", "/dev", "/dev/shm", "/tmp"}
	_, out := h.exec("p1", append([]string{"/data/probe", "fill"}, writable...)...)
	for _, dir := range writable {
		for _, way := range []string{"files", "bytes", "links", "attributes", "depth"} {
			if want := fmt.Sprintf("%s %s ENOSPC\n", dir, way); !strings.Contains(out, want) {
				t.Errorf("no line %q", strings.TrimSpace(want))
			}
		}
	}
	if strings.Contains(out, "no end in sight") {
		t.Error("something had no end")
	}
	_, refused := h.exec("p1", "/data/probe", "fill", "/", "/system", "/run/wayland", "/proc", "/sys", "/dev/pts")
	for line := range strings.Lines(refused) {
		if strings.HasSuffix(line, " no end in sight\n") || strings.HasSuffix(line, " ENOSPC\n") {
			t.Errorf("a path that should not be writable: %s", line)
		}
	}
	t.Logf("how it ended:\n%s%s", out, refused)
	h.logLine("p1", container.Guest, "dropped ")
	stop()
	if err := <-wrote; err != nil {
		t.Errorf("the neighbour meanwhile: %v", err)
	}

	// What must hold afterwards, with everything still full.
	after := h.space()
	if grown := before.HostFreeBytes - after.HostFreeBytes; after.HostFreeBytes < before.HostFreeBytes && grown > hostile.DataBytes+neighbour.DataBytes/2 {
		t.Errorf("the file system of the volumes has %d bytes less; %d were promised to the hostile phone", grown, hostile.DataBytes)
	}
	if u := h.usage("p1"); u.AllocatedBytes > hostile.DataBytes+1<<20 || u.FreeBytes > hostile.DataBytes/10 && u.FreeFiles > 10 {
		t.Errorf("usage of the hostile phone: %+v", u)
	}
	if size := diskUse(t, h.config.LogDir); size > 2*2*8<<20+1<<20 {
		t.Errorf("the logs take %d bytes", size)
	}
	if size := diskUse(t, h.config.RunDir); size > 1<<20 {
		t.Errorf("the run directory takes %d bytes", size)
	}
	for _, key := range h.snapshots("p1") {
		u, err := h.engine.Client().SnapshotService("overlayfs").Usage(t.Context(), key)
		if err != nil || u.Size > 1<<20 || u.Inodes > 100 {
			t.Errorf("the root of the hostile phone takes %+v, %v", u, err)
		}
	}
	store := filepath.Join(h.config.StateDir, "phonehost.db")
	if err := errors.Join(os.WriteFile(store, make([]byte, 16<<20), 0o600), os.Remove(store)); err != nil {
		t.Errorf("the host cannot store: %v", err)
	}
	h.shell("p2", "dd if=/dev/zero of=/data/more bs=1048576 count=10; sync; rm /data/more; sync")

	// It is a phone as any other: it can be reset, and then nothing of it is left.
	h.off("p1")
	hostile.DataGeneration, hostile.BootGeneration = 2, 2
	h.start(hostile)
	h.booted("p1")
	if err := h.engine.KeepGeneration(t.Context(), "p1", 2); err != nil {
		t.Fatal(err)
	}
	if reset := h.space(); reset.HostFreeBytes+4<<20 < before.HostFreeBytes {
		t.Errorf("%d bytes were free, and after the reset %d", before.HostFreeBytes, reset.HostFreeBytes)
	}
}

func (h *host) space() container.DataSpace {
	h.t.Helper()
	s, err := h.engine.DataSpace(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// keepWriting has a guest write a file, read it back and remove it, over and over, until ctx ends.
func (h *host) keepWriting(ctx context.Context, id string) error {
	for round := 0; ; round++ {
		var out bytes.Buffer
		code, err := h.engine.Exec(h.t.Context(), id, container.ExecOptions{
			Args: []string{"sh", "-c", "seq 200000 > /data/seq && wc -l < /data/seq && rm /data/seq"}, Stdout: &out,
		})
		if err != nil || code != 0 || strings.TrimSpace(out.String()) != "200000" {
			return fmt.Errorf("round %d: exit %d, %v: %q", round, code, err, out.String())
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// diskUse adds up what the files below a directory have.
func diskUse(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}
