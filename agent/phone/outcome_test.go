package phone

import (
	"testing"
	"time"

	"github.com/phonehost/phonehost/runtime/container"
)

// TestObservedEnding tells an end that the host caused from the guest's own.
func TestObservedEnding(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name    string
		started Start
		guest   container.Task
		want    string
	}{
		{"powered itself off", Start{2, "boot-1"}, container.Task{State: container.TaskStopped, ExitCode: 130, BootGeneration: 2}, meansPowerOff},
		{"the host had it power off", Start{2, "boot-1"},
			container.Task{Container: true, State: container.TaskStopped, ExitCode: 130, BootGeneration: 2, HostStopped: true}, meansHostRestart},
		{"the same before its start was recorded", Start{1, "boot-1"},
			container.Task{Container: true, State: container.TaskStopped, ExitCode: 130, BootGeneration: 2, HostStopped: true}, meansHostRestart},
		{"the host removed it", Start{2, "boot-1"}, container.Task{Container: true, BootGeneration: 2, HostStopped: true}, meansHostRestart},
		{"gone", Start{2, "boot-1"}, container.Task{Container: true, BootGeneration: 2}, meansCrash},
		{"gone with the host", Start{2, "boot-0"}, container.Task{Container: true, BootGeneration: 2}, meansHostRestart},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &Record{Spec: Spec{Profile: "testphone"}, On: true, BootGeneration: 2, Started: tt.started, Ended: 0}
			e := observedEnding(r, sight{known: true, obs: container.Observation{Guest: tt.guest}}, "boot-1", kills{}, now)
			if got := e.meaning(r); got != tt.want {
				t.Errorf("means %s, want %s: %+v", got, tt.want, e)
			}
			if e.generation != 2 {
				t.Errorf("generation %d, want 2", e.generation)
			}
		})
	}
}
