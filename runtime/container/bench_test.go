package container_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/runtime/volume"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// BenchmarkPowerOn measures the time from a prepared phone to the first instruction of its init, and that of ctr creating and
// starting the same two containers (the same specs, the same log writers) in the same order. Both alternate; the metrics are medians:
//
//	go test -run '^$' -bench PowerOn -benchtime 20x ./runtime/container
func BenchmarkPowerOn(b *testing.B) {
	ctr := testenv.Tool(b, "ctr")
	h := newHost(b)
	p := h.phone("p1", 0)
	h.prepare(p)
	peer := newPeer(h, ctr, p)
	var ours, theirs, ratios []float64
	for i := 0; b.Loop(); i++ {
		var a, f time.Duration
		if i%2 == 0 {
			a, f = h.timeEngine(p), peer.time()
		} else {
			f, a = peer.time(), h.timeEngine(p)
		}
		ours, theirs = append(ours, a.Seconds()*1000), append(theirs, f.Seconds()*1000)
		ratios = append(ratios, a.Seconds()/f.Seconds())
	}
	b.ReportMetric(median(ours), "ms")
	b.ReportMetric(median(theirs), "ctr_ms")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(0, "ns/op")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

func (h *host) timeEngine(p container.Phone) time.Duration {
	h.t.Helper()
	ctx := h.t.Context()
	begin := time.Now()
	h.prepare(p)
	if err := h.engine.StartDisplay(ctx, p); err != nil {
		h.t.Fatal(err)
	}
	if err := h.engine.StartGuest(ctx, p); err != nil {
		h.t.Fatal(err)
	}
	took := time.Since(begin)
	if err := h.engine.RemoveGuest(ctx, p.ID); err != nil {
		h.t.Fatal(err)
	}
	if err := h.engine.RemoveDisplay(ctx, p.ID); err != nil {
		h.t.Fatal(err)
	}
	return took
}

// peer starts a phone's containers with ctr. Its root is mounted and its loop device attached beforehand, which is in its favour.
type peer struct {
	h    *host
	ctr  string
	args [][]string
	ids  []string
}

func newPeer(h *host, ctr string, p container.Phone) *peer {
	h.t.Helper()
	guest, display, err := h.engine.Specs(h.t.Context(), p)
	if err != nil {
		h.t.Fatal(err)
	}
	root, err := os.MkdirTemp("", "phonehost-root-")
	if err != nil {
		h.t.Fatal(err)
	}
	mounts, err := h.engine.Client().SnapshotService("overlayfs").Mounts(h.t.Context(), h.snapshots(p.ID)[0])
	if err != nil {
		h.t.Fatal(err)
	}
	if err := mount.All(mounts, root); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := mount.UnmountAll(root, 0); err != nil {
			h.t.Error(err)
		}
		os.Remove(root)
	})
	image := filepath.Join(h.t.TempDir(), "data.img")
	if err := volume.Create(h.t.Context(), image, p.DataBytes); err != nil {
		h.t.Fatal(err)
	}
	loop, err := volume.Attach(h.t.Context(), image)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { loop.Close() })
	guest.Root.Path = root
	guest.Mounts[len(guest.Mounts)-1].Source = loop.Path
	r := &peer{h: h, ctr: ctr}
	r.add("peer.display", display)
	r.add("peer", guest)
	return r
}

func (r *peer) add(id string, spec *specs.Spec) {
	r.h.t.Helper()
	spec.Annotations["io.containerd.runc.v2.group"] = "peer"
	text, err := json.Marshal(spec)
	if err != nil {
		r.h.t.Fatal(err)
	}
	config := filepath.Join(r.h.t.TempDir(), id+".json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		r.h.t.Fatal(err)
	}
	uri := "binary://" + r.h.config.LogBinary + "?-path=" + filepath.Join(r.h.t.TempDir(), id+".log")
	r.ids = append(r.ids, id)
	r.args = append(r.args, []string{"run", "-d", "--log-uri", uri, "--config", config, id})
}

func (r *peer) run(args ...string) {
	r.h.t.Helper()
	cmd := exec.CommandContext(r.h.t.Context(), r.ctr, append([]string{"-a", r.h.config.Address, "-n", testenv.Namespace}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.h.t.Fatalf("ctr %v: %v: %s", args, err, out)
	}
}

func (r *peer) time() time.Duration {
	begin := time.Now()
	for _, args := range r.args {
		r.run(args...)
	}
	took := time.Since(begin)
	for _, id := range []string{"peer", "peer.display"} {
		r.run("task", "delete", "--force", id)
		r.run("container", "delete", id)
	}
	return took
}
