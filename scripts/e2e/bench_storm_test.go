package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

const (
	// stormPhones is how many phones the storm has, the most that one request takes, and stormBoots how many boot at once.
	stormPhones = 100
	stormBoots  = 8
)

// shown is the line of testphone's log that comes just before it says that its boot has completed.
const shown = "first frame shown"

// BenchmarkStorm creates 100 phones and powers them on, eight at once, and has ctr create and start the same 200 containers, eight phones
// at once, from the same specs. Both begin with an image that is unpacked and end when the last guest has booted: ours when the agent
// says RUNNING of it, which it asks each guest for by exec; ctr's when the guest's log says so.
//
// What ctr needs and does not make (snapshot and mount of the root file system, the volume with its file system, its loop device) is
// made beforehand with ctr, mkfs.ext4 and losetup, eight at once: ctr_prepare_s. The agent makes it in its own time, and so ratio is
// against the sum; ratio_run is against ctr alone, for which nothing has to be made. Directories and network namespaces ctr finds.
//
// While the hundred run, what they need beside their guests is measured too, and how long another agent takes to adopt them: nobody wants
// to wait for another hundred phones. An iteration is all of this once:
//
//	go test -run '^$' -bench Storm -benchtime 2x -timeout 30m ./scripts/e2e
func BenchmarkStorm(b *testing.B) {
	h := newHost(b, fmt.Sprintf("concurrent_boots = %d", stormBoots))
	b.Cleanup(func() {
		if err := h.removeCtrCgroup(); err != nil {
			b.Error(err)
		}
	})
	m := measures{}
	for b.Loop() {
		h.storm(b, m)
	}
	m.report(b)
}

// measures holds samples by the name of their metric.
type measures map[string][]float64

func (m measures) add(name string, v float64) { m[name] = append(m[name], v) }

// report reports the median of each.
func (m measures) report(b *testing.B) {
	for name, samples := range m {
		b.ReportMetric(quantile(samples, 50), name)
	}
	b.ReportMetric(0, "ns/op")
}

// storm is one iteration. It leaves the host as it was.
func (h *host) storm(b *testing.B, m measures) {
	f, ids := newFleet(h), names(stormPhones)
	ours := f.storm(b, ids, m)
	h.memory(b, m)
	h.adoption(b, ids, m)
	f = newFleet(h) // of the new agent
	off, err := f.phones.PowerOff(b.Context(), &phonehostv1.PowerOffRequest{PhoneIds: ids, Force: true})
	if err != nil {
		b.Fatal(err)
	}
	f.finish(off.GetOperation())
	prepare, run := h.ctrStorm(b, ids, m)
	m.add("ratio", ours/(prepare+run))
	m.add("ratio_run", ours/run)
	f.remove(ids)
}

// storm creates the phones and powers them on, and returns the seconds until all run.
func (f *fleet) storm(b *testing.B, ids []string, m measures) float64 {
	b.Helper()
	began := time.Now()
	f.create(ids)
	m.add("create_s", time.Since(began).Seconds())
	f.powerOn(ids)
	took := time.Since(began).Seconds()
	m.add("s", took)
	var last time.Time
	for _, p := range f.running(ids) {
		if at := p.GetStartTime().AsTime(); at.After(last) {
			last = at
		}
	}
	m.add("tasks_s", last.Sub(began).Seconds())
	return took
}

// ctrStorm has ctr create and start the same containers, of phones that are off, and returns the seconds that it took to make what they
// stand on, and then until the last guest has booted.
func (h *host) ctrStorm(b *testing.B, ids []string, m measures) (prepare, run float64) {
	var peers []*ctrPhone
	for _, id := range ids {
		peers = append(peers, h.newCtrPhone(id))
	}
	timed := func(fn func(context.Context, *ctrPhone) error) float64 {
		b.Helper()
		began := time.Now()
		if err := eachOf(b.Context(), peers, stormBoots, fn); err != nil {
			b.Fatal(err)
		}
		return time.Since(began).Seconds()
	}
	prepare = timed(func(ctx context.Context, p *ctrPhone) error { return p.prepare(ctx) })
	run = timed(func(ctx context.Context, p *ctrPhone) error {
		_, err := p.run(ctx, shown)
		return err
	})
	m.add("ctr_prepare_s", prepare)
	m.add("ctr_run_s", run)
	m.add("ctr_s", prepare+run)
	of := h.beside(b)
	m.add("ctr_beside_KiB", (of["shim"]+of["display"])/stormPhones)
	timed(func(ctx context.Context, p *ctrPhone) error { return p.remove(ctx) })
	timed(func(ctx context.Context, p *ctrPhone) error { return p.discard(ctx) })
	return prepare, run
}

// adoption ends the agent as a crash would, and measures from the execution of another until it serves, which is after it has adopted all
// phones; beside it how long ctr takes to list their tasks. No phone may have noticed.
func (h *host) adoption(b *testing.B, ids []string, m measures) {
	before := map[string]uint32{}
	for _, p := range newFleet(h).running(ids) {
		before[p.GetSpec().GetId()] = p.GetInitPid()
	}
	for range 3 {
		h.killAgent()
		began := time.Now()
		h.startAgent()
		m.add("adopt_s", time.Since(began).Seconds())
		for _, p := range newFleet(h).running(ids) {
			if id := p.GetSpec().GetId(); p.GetInitPid() != before[id] {
				b.Fatalf("%s runs with another init", id)
			}
		}
		began = time.Now()
		list, err := h.ctrTool(b.Context(), "tasks", "ls")
		if err != nil {
			b.Fatal(err)
		}
		m.add("ctr_ls_s", time.Since(began).Seconds())
		if n := strings.Count(list, "RUNNING"); n != 2*len(ids) {
			b.Fatalf("ctr lists %d running tasks of %d phones", n, len(ids))
		}
	}
}

// memory measures what the phones that run need beside their guests, a phone.
func (h *host) memory(b *testing.B, m measures) {
	sum := 0.0
	of := h.beside(b)
	of["agent"] = pss(b, h.agent.cmd.Process.Pid)
	for what, kib := range of {
		m.add(what+"_KiB", kib/stormPhones)
		if what != "guest" {
			sum += kib
		}
	}
	m.add("beside_KiB", sum/stormPhones)
}

// beside returns the memory of the host's shims and of all their descendants, in KiB by what they are: "shim", "log", "display" and "guest".
func (h *host) beside(b *testing.B) map[string]float64 {
	b.Helper()
	of := map[string]float64{}
	var below func(pid int, what string)
	below = func(pid int, what string) {
		of[what] += pss(b, pid)
		for _, child := range childrenOf(b, pid) {
			kind := what
			if what == "shim" {
				kind = kindOf(b, child)
			}
			below(child, kind)
		}
	}
	for _, shim := range h.containerd.Shims() {
		below(shim, "shim")
	}
	return of
}

// kindOf tells what a child of a shim is.
func kindOf(b *testing.B, pid int) string {
	switch name := readProc(b, pid, "comm"); strings.TrimSpace(name) {
	case "phone-log":
		return "log"
	case "phone-display":
		return "display"
	}
	return "guest"
}

// childrenOf lists the children of a process.
func childrenOf(b *testing.B, pid int) []int {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		b.Fatal(err)
	}
	var pids []int
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err != nil {
				b.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

// pss is a process's proportional set size in KiB.
func pss(b *testing.B, pid int) float64 {
	b.Helper()
	for line := range strings.Lines(readProc(b, pid, "smaps_rollup")) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "Pss: %f kB", &kib); n == 1 {
			return kib
		}
	}
	b.Fatalf("no Pss in smaps_rollup of %d", pid)
	return 0
}

// readProc reads a file of a process.
func readProc(b *testing.B, pid int, name string) string {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}
