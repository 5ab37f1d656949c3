package container_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/runtime/volume/archive"
)

// dataImage is the path of a data volume.
func (h *host) dataImage(id string, generation int) string {
	return filepath.Join(h.config.StateDir, "phones", id, "data-"+strconv.Itoa(generation)+".img")
}

// usage returns the usage of the one volume of a phone.
func (h *host) usage(id string) container.DataUsage {
	h.t.Helper()
	all, err := h.engine.DataUsage(h.t.Context(), id)
	if err != nil || len(all) != 1 || all[0].PhoneID != id {
		h.t.Fatalf("DataUsage(%s) = %+v, %v", id, all, err)
	}
	return all[0]
}

// mayResize reports whether the kernel lets this process grow a mounted file system.
func mayResize(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		t.Fatal(err)
	}
	return sets[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func TestDataGrows(t *testing.T) { dataGrows(t) }

// dataGrows grows a phone's data before a start, as after a crash in the middle of it, and under a running guest.
func dataGrows(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	if err := h.engine.GrowData(t.Context(), p); err != nil {
		t.Errorf("GrowData of a phone without data: %v", err)
	}
	h.start(p)
	h.shell("p1", "echo mine > /data/kept")
	h.off("p1")
	p.DataBytes *= 2
	if err := os.Truncate(h.dataImage("p1", 1), int64(p.DataBytes)); err != nil { // a crash came next
		t.Fatal(err)
	}
	h.start(p)
	h.shell("p1", "dd if=/dev/zero of=/data/large bs=1048576 count=90; sync")
	if u := h.usage("p1"); !u.Live || u.Bytes != p.DataBytes || u.AllocatedBytes < 90<<20 || u.CapacityBytes-u.FreeBytes < 90<<20 {
		t.Errorf("usage = %+v", u)
	}

	p.DataBytes *= 2
	err := h.engine.GrowData(t.Context(), p)
	if mayResize(t) {
		if err != nil {
			t.Fatal(err)
		}
	} else {
		if !errdefs.IsFailedPrecondition(err) {
			t.Errorf("GrowData = %v, want a failed precondition without CAP_SYS_RESOURCE", err)
		}
		h.off("p1")
		h.start(p)
	}
	h.shell("p1", "dd if=/dev/zero of=/data/larger bs=1048576 count=130")
	if out := h.shell("p1", "cat /data/kept"); out != "mine\n" {
		t.Errorf("kept = %q", out)
	}
	less := p
	less.DataBytes /= 2
	if err := h.engine.GrowData(t.Context(), less); !errdefs.IsInvalidArgument(err) {
		t.Errorf("GrowData to less = %v, want an invalid argument", err)
	}
}

// TestDataSpaceAddsUp has three phones: one runs, one is off, one was never started.
func TestDataSpaceAddsUp(t *testing.T) {
	h := newHost(t)
	if s, err := h.engine.DataSpace(t.Context()); err != nil || s.Volumes != 0 || s.Overcommit() != 0 {
		t.Errorf("with no phone: %+v, %v", s, err)
	}
	h.start(h.phone("p1", 0))
	h.shell("p1", "dd if=/dev/zero of=/data/large bs=1048576 count=20; sync")
	big := h.phone("p2", 1)
	big.DataBytes = 4 << 40 // more than the host of any test has
	h.prepare(big)
	all, err := h.engine.DataUsage(t.Context())
	if err != nil || len(all) != 2 || all[0].PhoneID != "p1" || all[1].PhoneID != "p2" || all[0].Generation != 1 {
		t.Fatalf("DataUsage = %+v, %v", all, err)
	}
	s, err := h.engine.DataSpace(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Volumes != 2 || s.PromisedBytes != 64<<20+4<<40 || s.AllocatedBytes != all[0].AllocatedBytes+all[1].AllocatedBytes || s.AllocatedBytes < 20<<20 {
		t.Errorf("DataSpace = %+v", s)
	}
	if s.HostFreeBytes == 0 || s.HostFreeBytes > s.HostBytes || s.Overcommit() < 1 {
		t.Errorf("DataSpace = %+v, overcommit %v", s, s.Overcommit())
	}
	if all, err := h.engine.DataUsage(t.Context(), "nobody"); err != nil || len(all) != 0 {
		t.Errorf("DataUsage of nobody = %+v, %v", all, err)
	}
	if _, err := h.engine.DataUsage(t.Context(), "../p1"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("DataUsage of a path = %v", err)
	}
}

// TestDataIsTrimmed has a guest's blocks back on the host, also those that its mount did not give back.
func TestDataIsTrimmed(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.start(p)
	h.shell("p1", "dd if=/dev/zero of=/data/large bs=1048576 count=20; sync; rm /data/large; sync")
	bytes, err := h.engine.TrimData(t.Context(), p)
	if err != nil || bytes > p.DataBytes {
		t.Errorf("TrimData = %d, %v", bytes, err)
	}
	if u := h.usage("p1"); u.AllocatedBytes > 3<<20 {
		t.Errorf("usage after the trim: %+v", u)
	}
	p.DataGeneration = 7
	if _, err := h.engine.TrimData(t.Context(), p); !errdefs.IsNotFound(err) {
		t.Errorf("TrimData of another generation = %v, want not found", err)
	}
}

// TestCloneData makes a phone of another's data: the two are alike then, and go their own ways.
func TestCloneData(t *testing.T) {
	h := newHost(t)
	p1, p2 := h.phone("p1", 0), h.phone("p2", 1)
	if _, err := h.engine.CloneData(t.Context(), p1, p2); !errdefs.IsNotFound(err) {
		t.Errorf("CloneData of nothing = %v, want not found", err)
	}
	h.start(p1)
	h.shell("p1", "echo first > /data/kept; chmod 640 /data/kept; sync")
	if _, err := h.engine.CloneData(t.Context(), p1, p2); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("CloneData of a phone that runs = %v, want a failed precondition", err)
	}
	h.off("p1")
	small := p2
	small.DataBytes /= 2
	if _, err := h.engine.CloneData(t.Context(), p1, small); !errdefs.IsInvalidArgument(err) {
		t.Errorf("CloneData for a smaller phone = %v, want an invalid argument", err)
	}
	if left := h.files("state/phones/p2/*"); len(left) != 0 {
		t.Errorf("left of clones that were refused: %v", left)
	}
	p2.DataBytes *= 2
	if _, err := h.engine.CloneData(t.Context(), p1, p2); err != nil {
		t.Fatal(err)
	}
	h.start(p1)
	h.start(p2)
	if out := h.shell("p2", "cat /data/kept; stat /data/kept | grep -c 0640; echo second > /data/kept"); out != "first\n1\n" {
		t.Errorf("the clone has %q", out)
	}
	if out := h.shell("p1", "cat /data/kept"); out != "first\n" {
		t.Errorf("the source has %q", out)
	}
	if u := h.usage("p2"); u.Bytes != p2.DataBytes || u.CapacityBytes < p2.DataBytes*8/10 {
		t.Errorf("usage of the clone, which is larger: %+v", u)
	}
}

// TestExportAndImport takes the data of one phone to another, which runs meanwhile.
func TestExportAndImport(t *testing.T) {
	h := newHost(t)
	p1, p2 := h.phone("p1", 0), h.phone("p2", 1)
	h.start(p1)
	h.start(p2)
	h.shell("p1", "mkdir -p /data/misc/x; echo first > /data/misc/x/kept; chmod 640 /data/misc/x/kept; dd if=/dev/zero of=/data/large bs=1048576 count=20")
	h.shell("p2", "echo old > /data/old")
	var out bytes.Buffer
	if _, err := h.engine.ExportData(t.Context(), p1, archive.Manifest{}, &out); !errdefs.IsFailedPrecondition(err) || out.Len() != 0 {
		t.Errorf("ExportData of a phone that runs = %v with %d bytes, want a failed precondition", err, out.Len())
	}
	h.off("p1")
	m, err := h.engine.ExportData(t.Context(), p1, archive.Manifest{AndroidVersion: "13"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	if m.Phone != "p1" || m.Profile != "testphone" || m.Image != p1.Image || m.ImageDigest != p1.ImageDigest || m.AndroidVersion != "13" || m.VolumeBytes != p1.DataBytes {
		t.Errorf("manifest = %+v", m)
	}

	next := p2
	next.DataGeneration = 2
	for _, tt := range []struct {
		name  string
		text  []byte
		bytes uint64
		class func(error) bool
	}{
		{"cut short", out.Bytes()[:out.Len()-7], next.DataBytes, errdefs.IsDataLoss},
		{"no archive", []byte("a letter"), next.DataBytes, errdefs.IsInvalidArgument},
		{"too large", out.Bytes(), volume.MinBytes, errdefs.IsOutOfRange},
	} {
		p := next
		p.DataBytes = tt.bytes
		if _, err := h.engine.ImportData(t.Context(), p, bytes.NewReader(tt.text)); !tt.class(err) {
			t.Errorf("ImportData of what is %s = %v", tt.name, err)
		}
		if diff := cmp.Diff([]string{h.dataImage("p2", 1)}, h.files("state/phones/p2/*")); diff != "" {
			t.Errorf("after what is %s: %s", tt.name, diff)
		}
	}
	for range 2 { // the second finds it made
		got, err := h.engine.ImportData(t.Context(), next, bytes.NewReader(out.Bytes()))
		if err != nil || got != m {
			t.Fatalf("ImportData = %+v, %v; want %+v", got, err, m)
		}
	}
	if text := h.shell("p2", "cat /data/old"); text != "old\n" {
		t.Errorf("the phone that runs meanwhile has %q", text)
	}
	h.off("p2")
	next.BootGeneration++
	h.start(next)
	if err := h.engine.KeepGeneration(t.Context(), "p2", 2); err != nil {
		t.Fatal(err)
	}
	if text := h.shell("p2", "cat /data/misc/x/kept; stat /data/misc/x/kept | grep -c 0640; ls /data/old || true"); text != "first\n1\n" {
		t.Errorf("after the import: %q\n%s", text, h.shell("p2", "stat /data/misc/x/kept; ls -l /data/misc/x"))
	}
	if diff := cmp.Diff([]string{h.dataImage("p2", 2)}, h.files("state/phones/p2/*")); diff != "" {
		t.Error(diff)
	}
}

// TestKeepGenerationRemovesHalfAnImport finds what a crash has left of one.
func TestKeepGenerationRemovesHalfAnImport(t *testing.T) {
	h := newHost(t)
	h.prepare(h.phone("p1", 0))
	if err := os.WriteFile(h.dataImage("p1", 2)+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.engine.KeepGeneration(t.Context(), "p1", 1); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{h.dataImage("p1", 1)}, h.files("state/phones/p1/*")); diff != "" {
		t.Error(diff)
	}
}

// TestPrepareBringsDataInOrder starts a phone after a power cut, and refuses one whose data cannot be mended.
func TestPrepareBringsDataInOrder(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	if r, err := h.engine.CheckData(t.Context(), p); err != nil || r.Outcome != volume.Clean {
		t.Errorf("CheckData of a phone without data = %+v, %v", r, err)
	}
	h.start(p)
	h.shell("p1", "echo mine > /data/kept; sync")
	if r, err := h.engine.CheckData(t.Context(), p); err != nil || r.Outcome != volume.Clean || r.Reason != "" {
		t.Errorf("CheckData of a phone that runs = %+v, %v", r, err)
	}
	path := h.dataImage("p1", 1)
	live, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h.off("p1")
	put := func(text []byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path+"~", text, 0o600), os.Rename(path+"~", path)); err != nil {
			t.Fatal(err)
		}
	}
	put(live) // the power was cut then
	if r, err := h.engine.CheckData(t.Context(), p); err != nil || r.Outcome != volume.Replayed || !strings.Contains(r.Summary, "recovering journal") {
		t.Errorf("CheckData after a power cut = %+v, %v", r, err)
	}
	put(live)
	h.start(p) // without a look at what was found
	if out := h.shell("p1", "cat /data/kept"); out != "mine\n" {
		t.Errorf("kept = %q", out)
	}
	h.off("p1")
	noise := bytes.Repeat([]byte("noise"), 1<<20)
	put(noise)
	if r, err := h.engine.CheckData(t.Context(), p); !errdefs.IsDataLoss(err) || r.Outcome != volume.BeyondRepair || r.Summary == "" {
		t.Errorf("CheckData of noise = %+v, %v", r, err)
	}
	if err := h.engine.Prepare(t.Context(), p); !errdefs.IsDataLoss(err) {
		t.Errorf("Prepare = %v, want data loss", err)
	}
	if _, err := h.engine.ExportData(t.Context(), p, archive.Manifest{}, io.Discard); !errdefs.IsDataLoss(err) {
		t.Errorf("ExportData = %v, want data loss", err)
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, noise) {
		t.Errorf("what was beyond repair was changed: %v", err)
	}
}

// TestDataInUseStays wants neither a reset nor a deletion to take a volume away that is being exported.
func TestDataInUseStays(t *testing.T) {
	h := newHost(t)
	p := h.phone("p1", 0)
	h.prepare(p)
	reading, written := io.Pipe()
	exported := make(chan error, 1)
	go func() {
		_, err := h.engine.ExportData(t.Context(), p, archive.Manifest{}, written)
		exported <- errors.Join(err, written.Close())
	}()
	if _, err := io.ReadFull(reading, make([]byte, 1)); err != nil { // it is at it
		t.Fatal(err)
	}
	if err := h.engine.KeepGeneration(t.Context(), "p1", 2); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("KeepGeneration = %v, want a failed precondition", err)
	}
	if err := h.engine.Destroy(t.Context(), "p1"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Destroy = %v, want a failed precondition", err)
	}
	if u := h.usage("p1"); !u.Live || u.Files == 0 {
		t.Errorf("usage of a volume that is being exported: %+v", u)
	}
	if _, err := io.Copy(io.Discard, reading); err != nil {
		t.Error(err)
	}
	if err := <-exported; err != nil {
		t.Errorf("ExportData = %v", err)
	}
	if err := h.engine.Destroy(t.Context(), "p1"); err != nil {
		t.Error(err)
	}
}
