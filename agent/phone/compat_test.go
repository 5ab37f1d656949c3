package phone

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone/phonetest"
)

// TestDatabaseOfRelease1 takes over the phones of a host that release 1 left: p1 ran, p2 was booting under op-2 and is never started
// again by itself. The host has restarted meanwhile.
func TestDatabaseOfRelease1(t *testing.T) {
	f, err := os.Open("../store/testdata/v1.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 1, 20, 1, 0, 0, 0, time.UTC)))
		a := startAgent(t, phonetest.New(), path, nil)
		defer a.stop()
		time.Sleep(time.Minute)
		snap := a.want("p1", Running)
		want := Spec{
			ID: "p1", Image: "phonehost.dev/testphone:latest", Profile: "testphone", VCPUs: 2, CPUWeight: 100, MemoryBytes: 512 << 20,
			DataBytes: 4 << 30, Display: Display{Width: 720, Height: 1280, DPI: 320, MaxFPS: 30},
			Properties: map[string]string{"ro.x": "1"}, Labels: map[string]string{"user": "u1"}, RestartPolicy: Always,
			Network: Network{Policy: "allow-internet"},
		}
		if diff := cmp.Diff(want, snap.Record.Spec, addresses); diff != "" {
			t.Errorf("spec of p1 (-want +got):\n%s", diff)
		}
		if snap.Record.Slot != 0 || snap.Record.DataGeneration != 1 || snap.Record.BootGeneration != 2 {
			t.Errorf("record of p1: %+v", snap.Record)
		}
		a.want("p2", Stopped)
		op, err := a.ops.Get("op-2")
		if err != nil || op.State != operation.Failed || op.Results[0].Failure.Reason != "GUEST_EXITED" {
			t.Errorf("op-2: %+v %v", op, err)
		}
		again, err := a.Submit(t.Context(), Request{Kind: operation.PowerOn, IDs: []string{"p1"}, RequestID: "r1", RequestedBy: "client/fleet"})
		if err != nil || again.ID != "op-1" {
			t.Errorf("retry of r1: %s %v, want op-1", again.ID, err)
		}
	})
}
