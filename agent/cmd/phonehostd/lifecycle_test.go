package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// await watches the phone until it is as wanted.
func (h *host) await(what string, wanted func(*phonehostv1.Phone) bool) *phonehostv1.Phone {
	h.t.Helper()
	phones, _, c := h.dial()
	defer c.Close()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	watch, err := phones.Watch(ctx, &phonehostv1.WatchRequest{PhoneIds: []string{"p1"}})
	if err != nil {
		h.t.Fatal(err)
	}
	var last *phonehostv1.Phone
	for {
		m, err := watch.Recv()
		if err != nil {
			h.t.Fatalf("wait for %s: %v; last %v", what, err, last)
		}
		if m.GetPhone() == nil {
			continue
		}
		if last = m.GetPhone(); wanted(last) {
			return last
		}
	}
}

// update changes fields of the phone.
func (h *host) update(spec *phonehostv1.PhoneSpec, fields ...string) {
	h.t.Helper()
	phones, _, c := h.dial()
	defer c.Close()
	m, err := phones.Update(h.t.Context(), &phonehostv1.UpdateRequest{
		PhoneIds: []string{"p1"}, Spec: spec, UpdateMask: &fieldmaskpb.FieldMask{Paths: fields},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.succeeds(m.GetOperation().GetId())
}

// succeeds waits for an operation, which must succeed.
func (h *host) succeeds(id string) {
	h.t.Helper()
	if op := h.finish(id); op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		h.t.Fatalf("%v", op)
	}
}

// shell runs a line in the guest and returns what it printed.
func (h *host) shell(line string) string {
	h.t.Helper()
	phones, _, c := h.dial()
	defer c.Close()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	call, err := phones.Exec(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	err = call.Send(&phonehostv1.ExecRequest{Message: &phonehostv1.ExecRequest_Start{Start: &phonehostv1.ExecStart{
		PhoneId: "p1", Args: []string{"sh", "-c", line},
	}}})
	if err != nil {
		h.t.Fatal(err)
	}
	var out strings.Builder
	for {
		m, err := call.Recv()
		if err == io.EOF {
			return out.String()
		}
		if err != nil {
			h.t.Fatalf("%s: %v", line, err)
		}
		out.Write(m.GetStdout())
		out.Write(m.GetStderr())
	}
}

// cgroupValue returns what the kernel has for the guest, by the file's name in cgroup v1 or that in v2.
func (h *host) cgroupValue(v1, v2 string) string {
	h.t.Helper()
	for _, name := range []string{v1, v2} {
		for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			files, err := filepath.Glob(filepath.Join(dir, filepath.Base(h.dir), "p1/guest/ctr", name))
			if err != nil {
				h.t.Fatal(err)
			}
			if len(files) == 0 {
				continue
			}
			text, err := os.ReadFile(files[0])
			if err != nil {
				h.t.Fatal(err)
			}
			return strings.TrimSpace(string(text))
		}
	}
	h.t.Fatalf("no hierarchy limits the guest by %s", v1)
	return ""
}

// ends returns the events of guests that ended.
func (h *host) ends() []*phonehostv1.Event {
	h.t.Helper()
	return h.events(phonehostv1.EventKind_EVENT_KIND_GUEST_EXITED)
}

// events returns the phone's events of a kind.
func (h *host) events(kind phonehostv1.EventKind) (all []*phonehostv1.Event) {
	h.t.Helper()
	_, _, c := h.dial()
	defer c.Close()
	watch, err := phonehostv1.NewEventServiceClient(c.Control()).Watch(h.t.Context(), &phonehostv1.EventServiceWatchRequest{PhoneId: "p1", NoFollow: true})
	if err != nil {
		h.t.Fatal(err)
	}
	for {
		m, err := watch.Recv()
		if err == io.EOF {
			return all
		}
		if err != nil {
			h.t.Fatal(err)
		}
		for _, e := range m.GetEvents() {
			if e.GetKind() == kind {
				all = append(all, e)
			}
		}
	}
}

// TestLifecycle changes, starves, freezes and leases a real phone.
func TestLifecycle(t *testing.T) {
	h := newHost(t)
	h.importImage()
	phones, _, c := h.dial()
	_, err := phones.CreatePhone(t.Context(), &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{
		Id: "p1", Image: "phonehost.dev/testphone:latest", MemoryBytes: 192 << 20, DataBytes: 64 << 20,
	}})
	c.Close()
	if err != nil {
		t.Fatal(err)
	}
	h.succeeds(h.accept(true))
	before := h.phone()

	// The running guest has it at once, or the phone says that it will.
	h.update(&phonehostv1.PhoneSpec{MemoryBytes: 256 << 20, Vcpus: 0.7, Display: &phonehostv1.DisplaySpec{Width: 360, Height: 640}},
		"memory_bytes", "vcpus", "display.width", "display.height")
	if memory, quota := h.cgroupValue("memory.limit_in_bytes", "memory.max"), h.cgroupValue("cpu.cfs_quota_us", "cpu.max"); memory != fmt.Sprint(256<<20) ||
		!strings.HasPrefix(quota, "70000") {
		t.Errorf("the guest has %s bytes and %s", memory, quota)
	}
	p := h.phone()
	if p.GetInitPid() != before.GetInitPid() || !slices.Equal(p.GetPendingRestart(), []string{"display"}) {
		t.Errorf("after the update: %v", p)
	}
	h.kill()
	h.start()
	if p := h.phone(); !slices.Equal(p.GetPendingRestart(), []string{"display"}) {
		t.Errorf("the next agent does not know what is pending: %v", p.GetPendingRestart())
	}

	// A guest whose process was killed for want of memory, and whose init is then killed while no agent looks.
	h.shell("echo the last words > /proc/1/fd/1; x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done")
	h.kill()
	if err := syscall.Kill(int(p.GetInitPid()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.start()
	p = h.await("the next boot", func(p *phonehostv1.Phone) bool {
		return p.GetStatus() == phonehostv1.PhoneStatus_PHONE_STATUS_RUNNING && p.GetBootGeneration() > before.GetBootGeneration()
	})
	if p.GetLastFailure().GetReason() != "OUT_OF_MEMORY" || codes.Code(p.GetLastFailure().GetCode()) != codes.ResourceExhausted || p.GetPendingRestart() != nil {
		t.Errorf("after the want of memory: %v", p)
	}
	if ends := h.ends(); len(ends) != 1 || ends[0].GetAttributes()["meaning"] != "oom" || !strings.Contains(ends[0].GetAttributes()["log"], "the last words") {
		t.Errorf("ends: %v", ends)
	}

	// A lease ends by itself.
	h.shell("echo kept > /data/file")
	h.update(&phonehostv1.PhoneSpec{Lease: &phonehostv1.Lease{ExpiresAt: timestamppb.New(time.Now().Add(time.Second))}}, "lease")
	p = h.await("the end of the lease", func(p *phonehostv1.Phone) bool { return p.GetStatus() == phonehostv1.PhoneStatus_PHONE_STATUS_STOPPED })
	if f := p.GetFreezes(); len(f) != 1 || f[0].GetReason() != phonehostv1.FreezeReason_FREEZE_REASON_EXPIRED || p.GetReason() != "frozen: EXPIRED" {
		t.Errorf("after its end: %v", p)
	}
	phones, _, c = h.dial()
	defer c.Close()
	if _, err := phones.PowerOn(t.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{"p1"}}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("power on of a phone whose lease is over: %v", err)
	}
	h.update(&phonehostv1.PhoneSpec{}, "lease")
	h.succeeds(h.accept(true))
	if got := h.shell("cat /data/file"); got != "kept\n" {
		t.Errorf("the data after it: %q", got)
	}

	// Frozen, and deleted as such.
	frozen, err := phones.Freeze(t.Context(), &phonehostv1.FreezeRequest{PhoneIds: []string{"p1"}, Reason: phonehostv1.FreezeReason_FREEZE_REASON_POLICE})
	if err != nil {
		t.Fatal(err)
	}
	h.succeeds(frozen.GetOperation().GetId())
	gone, err := phones.Delete(t.Context(), &phonehostv1.DeleteRequest{PhoneIds: []string{"p1"}})
	if err != nil {
		t.Fatal(err)
	}
	h.succeeds(gone.GetOperation().GetId())
	if out, err := exec.Command("sh", "-c", "find /sys/fs/cgroup -name "+filepath.Base(h.dir)+" -exec find {} -mindepth 1 -name .canary -prune -o -type d -print \\;").CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("cgroups left: %s %v", out, err)
	}
}

// TestDataOutOfOrder starts a real phone on data that is not in order: what is done about it is told, and what cannot be mended.
func TestDataOutOfOrder(t *testing.T) {
	h := newHost(t)
	h.importImage()
	phones, _, c := h.dial()
	defer c.Close()
	_, err := phones.CreatePhone(t.Context(), &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{
		Id: "p1", Image: "phonehost.dev/testphone:latest", MemoryBytes: 192 << 20, DataBytes: 64 << 20,
	}})
	if err != nil {
		t.Fatal(err)
	}
	h.succeeds(h.accept(true))
	h.shell("echo kept > /data/file; sync")
	image := h.path("state/phones/p1/data-1.img")
	live, err := os.ReadFile(image) // as a power cut would leave it
	if err != nil {
		t.Fatal(err)
	}
	// put gives the phone, which is off, another image.
	put := func(content []byte) {
		h.succeeds(h.accept(false))
		if err := os.WriteFile(image+"~", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(image+"~", image); err != nil {
			t.Fatal(err)
		}
	}
	put(live)
	h.succeeds(h.accept(true))
	if got := h.shell("cat /data/file"); got != "kept\n" {
		t.Errorf("the data after a power cut: %q", got)
	}
	put([]byte(strings.Repeat("noise", 1<<20)))
	op := h.finish(h.accept(true))
	if f := op.GetResults()[0].GetFailure(); f.GetReason() != "DATA_LOSS" || codes.Code(f.GetCode()) != codes.DataLoss || !strings.Contains(f.GetMessage(), "superblock") {
		t.Errorf("start on noise: %v", op)
	}
	if hold := h.phone().GetHold(); hold.GetReason() != "START_FAILED" {
		t.Errorf("hold: %v", hold)
	}
	var outcomes []string
	for _, e := range h.events(phonehostv1.EventKind_EVENT_KIND_DATA_CHECKED) {
		outcomes = append(outcomes, e.GetAttributes()["outcome"])
		if e.GetAttributes()["reason"] == "" || e.GetAttributes()["summary"] == "" || e.GetOperationId() == "" {
			t.Errorf("event %v", e)
		}
	}
	if !slices.Equal(outcomes, []string{"replayed", "beyond_repair"}) {
		t.Errorf("events of %v", outcomes)
	}
	reset, err := phones.Reset(t.Context(), &phonehostv1.ResetRequest{PhoneIds: []string{"p1"}})
	if err != nil {
		t.Fatal(err)
	}
	h.succeeds(reset.GetOperation().GetId())
	h.succeeds(h.accept(true))
}
