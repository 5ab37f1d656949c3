package phone

import (
	"testing"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
)

// TestRules says for every request, forced or not, what it meets in every status: "" is allowed.
func TestRules(t *testing.T) {
	const (
		yes  = ""
		lost = fault.ContainerdLost
		off  = fault.NotRunning
		on   = fault.AlreadyOn
		busy = fault.Busy
		up   = fault.NotOff
	)
	type row [6]string //     UNKNOWN STOPPED RUNNING STOPPING STARTING POWERED_OFF
	tests := []struct {
		name  string
		kind  operation.Kind
		force bool
		task  *Task
		want  row
	}{
		{"PowerOn", operation.PowerOn, false, nil, row{lost, yes, on, busy, on, yes}},
		{"PowerOff", operation.PowerOff, false, nil, row{lost, off, yes, busy, yes, off}},
		{"PowerOff force", operation.PowerOff, true, nil, row{lost, off, yes, yes, yes, off}},
		{"Restart", operation.Restart, false, nil, row{lost, off, yes, busy, busy, off}},
		{"Restart force", operation.Restart, true, nil, row{lost, off, yes, busy, busy, off}},
		{"Reset", operation.Reset, false, nil, row{lost, yes, yes, busy, busy, yes}},
		{"Delete", operation.Delete, false, nil, row{lost, yes, up, busy, up, yes}},
		{"Delete force", operation.Delete, true, nil, row{yes, yes, yes, yes, yes, yes}},

		{"PowerOn during PowerOn", operation.PowerOn, false, task(operation.PowerOn), row{lost, busy, busy, busy, busy, busy}},
		{"PowerOff during PowerOn", operation.PowerOff, false, task(operation.PowerOn), row{lost, off, yes, busy, yes, off}},
		{"PowerOff during PowerOff", operation.PowerOff, false, task(operation.PowerOff), row{lost, off, busy, busy, busy, off}},
		{"PowerOff force during PowerOff", operation.PowerOff, true, task(operation.PowerOff), row{lost, off, yes, yes, yes, off}},
		{"PowerOff force during Delete", operation.PowerOff, true, task(operation.Delete), row{lost, off, busy, busy, busy, off}},
		{"Restart during PowerOn", operation.Restart, false, task(operation.PowerOn), row{lost, off, busy, busy, busy, off}},
		{"Reset during Reset", operation.Reset, false, task(operation.Reset), row{lost, busy, busy, busy, busy, busy}},
		{"Delete during Reset", operation.Delete, false, task(operation.Reset), row{lost, busy, up, busy, up, busy}},
		{"Delete force during PowerOn", operation.Delete, true, task(operation.PowerOn), row{yes, yes, yes, yes, yes, yes}},
		{"Delete force during Delete", operation.Delete, true, task(operation.Delete), row{busy, busy, busy, busy, busy, busy}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got row
			for status := range got {
				err := refusal("p1", tt.kind, tt.force, Status(status), tt.task)
				got[status] = fault.Reason(err)
				if (err == nil) != (got[status] == "") {
					t.Errorf("in %s the error %v has no reason", Status(status), err)
				}
				if got[status] == busy && tt.task != nil && fault.Meta(err)["operation_id"] != tt.task.OperationID {
					t.Errorf("in %s the refusal %v does not name the operation in the way", Status(status), err)
				}
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func task(kind operation.Kind) *Task { return &Task{OperationID: "op-7", Kind: kind} }
