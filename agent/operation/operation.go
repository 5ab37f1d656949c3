// Package operation keeps the accepted requests that take time, with a result for every phone that each concerns.
//
// The package owns the "operations" bucket of the store and its indexes (drawn in agent/store). Operations are durable: they
// are created in the transaction that changes the phones' desired state, ended in the transaction that records the outcome,
// and forgotten KeepFor after their end. An operation that runs while the agent dies still runs after it starts again: the
// phone's controller takes it up, since the phone's record names it, or package job does. Only the progress texts are held in
// memory alone.
//
// The package never acts on phones. All methods may be called by many goroutines at once; watchers never hold up the writer.
package operation

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// KeepFor is how long an operation is kept after its end, and so how long a request id is remembered.
const KeepFor = 24 * time.Hour

// Kind names what an operation does. The numbers are stored and are those of the API.
type Kind int

// Kinds of operations. 9 to 13 are work in running guests, which package job does; the others change what phones should be.
const (
	PowerOn  Kind = 1
	PowerOff Kind = 2
	Restart  Kind = 3
	Reset    Kind = 4
	Delete   Kind = 5
	Freeze   Kind = 6
	Unfreeze Kind = 7
	Update   Kind = 8

	Command      Kind = 9
	InstallApp   Kind = 10
	UninstallApp Kind = 11
	StartApp     Kind = 12
	StopApp      Kind = 13

	ImportData Kind = 14
	Clone      Kind = 15
)

// kindNames are the kinds' names as logs and people read them.
var kindNames = map[Kind]string{
	PowerOn: "power on", PowerOff: "power off", Restart: "restart", Reset: "reset", Delete: "delete",
	Freeze: "freeze", Unfreeze: "unfreeze", Update: "update", ImportData: "import data", Clone: "clone",
	Command: "command", InstallApp: "install app", UninstallApp: "uninstall app", StartApp: "start app", StopApp: "stop app",
}

// Kinds returns all kinds in the order of their numbers.
func Kinds() []Kind { return slices.Sorted(maps.Keys(kindNames)) }

// String returns the kind's name as logs and people read it.
func (k Kind) String() string {
	if name, known := kindNames[k]; known {
		return name
	}
	return "unknown operation"
}

// State is how far an operation, or its part for one phone, has come. The numbers are stored and are those of the API.
type State int

// States of operations and of their parts.
const (
	// Running means accepted and under way.
	Running State = 1
	// Succeeded means done; of an operation: for every phone.
	Succeeded State = 2
	// Failed means not done; of an operation: for at least one phone.
	Failed State = 3
	// Aborted means given up because another request went before it; of an operation: for at least one phone, and none failed.
	Aborted State = 4
)

// String returns the state's name in lower case.
func (s State) String() string {
	names := [...]string{Running: "running", Succeeded: "succeeded", Failed: "failed", Aborted: "aborted"}
	if s < Running || s > Aborted {
		return "unknown"
	}
	return names[s]
}

// Failure is why an operation on a phone did not succeed.
type Failure struct {
	// Kind of the operation.
	Kind Kind `json:"kind"`
	// Code is the gRPC status code, 1..16.
	Code int32 `json:"code"`
	// Reason is a word out of docs/api.md, or empty where the code says all.
	Reason string `json:"reason,omitempty"`
	// Message says what went wrong and what was last seen.
	Message string `json:"message"`
	// Time is when it failed.
	Time time.Time `json:"time"`
}

// Result is the part of an operation that concerns one phone.
type Result struct {
	// PhoneID names the phone.
	PhoneID string `json:"phone_id"`
	// State is how far this part has come.
	State State `json:"state"`
	// Progress is what is being done now, for people; it is not stored.
	Progress string `json:"-"`
	// Failure is why this part failed or was aborted, else nil.
	Failure *Failure `json:"failure,omitempty"`
	// EndTime is when this part ended; zero while it runs.
	EndTime time.Time `json:"end_time,omitzero"`
	// Output is what a command left; nil for other kinds.
	Output *Output `json:"output,omitempty"`
}

// Output is what a command in a guest left.
type Output struct {
	// ExitCode is 0..255, 128 + n after signal n; nil where the command did not end by itself.
	ExitCode *uint32 `json:"exit_code,omitempty"`
	// Stdout and Stderr are the beginnings of its output, StdoutDropped and StderrDropped the bytes that were cut off.
	Stdout        []byte `json:"stdout,omitempty"`
	Stderr        []byte `json:"stderr,omitempty"`
	StdoutDropped uint64 `json:"stdout_dropped,omitempty"`
	StderrDropped uint64 `json:"stderr_dropped,omitempty"`
	// Duration is how long it ran.
	Duration time.Duration `json:"duration,omitempty"`
}

// Operation is one accepted request.
type Operation struct {
	// ID is "op-" and a number that grows from 1 and is never used again on this host.
	ID string `json:"id"`
	// Kind is what it does.
	Kind Kind `json:"kind"`
	// RequestID is the caller's own name for the request, up to 64 characters, or empty.
	RequestID string `json:"request_id,omitempty"`
	// RequestedBy is the identity that asked, such as "client/fleet" or "uid/0". A request id counts within one identity.
	RequestedBy string `json:"requested_by"`
	// Fingerprint tells a retry from another request under the same request id: equal requests have equal fingerprints.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Payload is what the operation needs to be gone on with by another agent, as its kind's package writes it; empty for kinds whose
	// wish is in the phones' records. It is not shown.
	Payload json.RawMessage `json:"payload,omitempty"`
	// State is how far the whole has come.
	State State `json:"state"`
	// Results holds one entry per phone, in the request's order.
	Results []Result `json:"results"`
	// CreateTime is when it was accepted.
	CreateTime time.Time `json:"create_time"`
	// EndTime is when its last part ended; zero while any runs.
	EndTime time.Time `json:"end_time,omitzero"`
}

// Result returns the part that concerns a phone, or nil.
func (o *Operation) Result(phoneID string) *Result {
	for i := range o.Results {
		if o.Results[i].PhoneID == phoneID {
			return &o.Results[i]
		}
	}
	return nil
}

// Clone returns a copy that shares nothing that changes.
func (o *Operation) Clone() Operation {
	c := *o
	c.Results = slices.Clone(o.Results)
	return c
}

// settle sets the operation's state from its parts; at is its end if the last part has ended.
func (o *Operation) settle(at time.Time) {
	state := Succeeded
	for _, r := range o.Results {
		switch r.State {
		case Running:
			o.State = Running
			return
		case Failed:
			state = Failed
		case Aborted:
			if state != Failed {
				state = Aborted
			}
		}
	}
	o.State, o.EndTime = state, at
}
