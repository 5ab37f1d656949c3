package job_test

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// errorsTo is a handler of logs that tells of errors.
type errorsTo struct {
	slog.Handler
	told chan struct{}
}

// Handle implements slog.Handler.
func (e errorsTo) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelError {
		select {
		case e.told <- struct{}{}:
		default:
		}
	}
	return e.Handler.Handle(ctx, r)
}

// TestAnEndWaitsForRoom ends a part whose output the disk has no room for: it has ended as soon as there is room.
func TestAnEndWaitsForRoom(t *testing.T) {
	testenv.Root(t)
	dir := t.TempDir()
	mount := func(flags uintptr, size string) {
		t.Helper()
		if err := unix.Mount("tmpfs", dir, "tmpfs", flags, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
	mount(0, "4m")
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	h := newHost(t)
	h.path = filepath.Join(dir, "db")
	h.do = func(context.Context, job.Work) (*operation.Output, error) {
		return &operation.Output{Stdout: bytes.Repeat([]byte{'x'}, 8<<20)}, nil
	}
	told := make(chan struct{}, 1)
	h.log = func(in slog.Handler) slog.Handler { return errorsTo{in, told} }
	a := h.start()
	a.on("p1")
	op := a.submit(job.Request{Kind: operation.Command, IDs: []string{"p1"}})
	<-told
	if now, err := a.ops.Get(op.ID); err != nil || now.State != operation.Running {
		t.Errorf("while its end cannot be stored it is %v, %v", now.State, err)
	}
	mount(unix.MS_REMOUNT, "64m")
	if diff := cmp.Diff(map[string]string{"p1": "succeeded"}, partsOf(a.ended(op.ID))); diff != "" {
		t.Error(diff)
	}
	if len(h.done) != 1 {
		t.Errorf("done %v", h.done)
	}
}
