// Package event keeps the journal: a durable list of what happened on this host, bounded to the newest events.
//
// The package owns the "events" bucket of the store (drawn in agent/store). An event gets its sequence number in the
// transaction that stores it, so numbers grow by 1 without a gap and in the order in which watchers see them. Events that
// belong to a change of state are stored in its transaction (Journal.Append); all others go through Journal.Emit, which never
// waits: one writer goroutine stores what has gathered within a few milliseconds in one transaction.
//
// Watchers read from the store and are only woken by the writer, so that a slow watcher costs nothing but itself.
package event

import "time"

// Kind names what happened. The numbers are stored and are those of the API.
type Kind int

// Kinds of events; the API's description says which attributes each carries.
const (
	PhoneCreated     Kind = 1
	PhoneDeleted     Kind = 2
	PhoneStatus      Kind = 3
	GuestStarted     Kind = 4
	GuestBooted      Kind = 5
	GuestExited      Kind = 6
	DisplayStarted   Kind = 7
	DisplayExited    Kind = 8
	OperationStarted Kind = 9
	OperationEnded   Kind = 10
	AgentStarted     Kind = 11
	AgentStopping    Kind = 12
	ContainerdLost   Kind = 13
	ContainerdBack   Kind = 14
	SessionOpened    Kind = 15
	SessionClosed    Kind = 16
	SessionRefused   Kind = 17
	ViewerAttached   Kind = 18
	ViewerDetached   Kind = 19
	OrphanRemoved    Kind = 20
	PhoneFrozen      Kind = 21
	PhoneUnfrozen    Kind = 22
	PhoneUpdated     Kind = 23
	DataChecked      Kind = 24
	NetworkDenied    Kind = 25
	PolicyChanged    Kind = 26
	NameServerExited Kind = 27
	AppDenied        Kind = 28
	AppListChanged   Kind = 29
)

// Event is one thing that happened.
type Event struct {
	// Seq is the event's number, from 1, growing by 1, never used again. The journal sets it.
	Seq uint64 `json:"-"`
	// Time is when it happened. The journal sets it where it is zero.
	Time time.Time `json:"time"`
	// Kind is what happened.
	Kind Kind `json:"kind"`
	// PhoneID is the phone that it concerns, or empty.
	PhoneID string `json:"phone_id,omitempty"`
	// OperationID is the operation that it belongs to, or empty.
	OperationID string `json:"operation_id,omitempty"`
	// Message is one sentence for people.
	Message string `json:"message"`
	// Attributes holds details by name.
	Attributes map[string]string `json:"attributes,omitempty"`
}
