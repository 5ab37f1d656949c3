// Package fault gives errors the two things that a caller of the API acts on: a class and a reason.
//
// The class is one of github.com/containerd/errdefs' sentinels and decides the gRPC code. The reason is a word in capitals,
// such as NOT_RUNNING, out of the table in docs/api.md; it travels in the ErrorInfo of the API's errors and in the Failure of
// an operation. The package holds no state and knows nothing of gRPC services: agent/api turns faults into statuses.
package fault

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Domain is the domain of every reason in the API's ErrorInfo details.
const Domain = "phonehost.dev"

// Reasons that more than one package gives or tests for. Each is described in docs/api.md.
const (
	// InvalidField means that one field of the request breaks its rule; metadata "field" names it.
	InvalidField = "INVALID_FIELD"
	// NoSuchPhone means that no phone has the id.
	NoSuchPhone = "NO_SUCH_PHONE"
	// NoSuchOperation means that the operation never was, or ended more than 24 hours ago.
	NoSuchOperation = "NO_SUCH_OPERATION"
	// NoSuchImage means that the host does not have the image.
	NoSuchImage = "NO_SUCH_IMAGE"
	// PhoneExists means that the id is taken by a phone with another spec.
	PhoneExists = "PHONE_EXISTS"
	// NotRunning means that the request needs a running guest.
	NotRunning = "NOT_RUNNING"
	// AlreadyOn means that the phone is on or on its way there.
	AlreadyOn = "ALREADY_ON"
	// NotOff means that the request needs a phone that is off.
	NotOff = "NOT_OFF"
	// Frozen means that the phone is frozen, and so must not run.
	Frozen = "FROZEN"
	// LeaseExpired means that the phone's lease is over.
	LeaseExpired = "LEASE_EXPIRED"
	// WrongProfile means that the image is for another profile than the phone's.
	WrongProfile = "WRONG_PROFILE"
	// DataNewer means that the data was used with a newer Android than the image's.
	DataNewer = "DATA_NEWER"
	// DataLoss means that the file system of the phone's data could not be mended.
	DataLoss = "DATA_LOSS"
	// OutOfMemory means that the guest ended because the kernel killed its processes for want of memory.
	OutOfMemory = "OUT_OF_MEMORY"
	// UpdateFailed means that what an Update asked for could not be done now.
	UpdateFailed = "UPDATE_FAILED"
	// Busy means that an operation is in the way; metadata "operation_id" names it.
	Busy = "BUSY"
	// ContainerdLost means that containerd does not answer, so that the phone's state is not known.
	ContainerdLost = "CONTAINERD_LOST"
	// DiskLow means that the host's disk is below its low-water mark.
	DiskLow = "DISK_LOW"
	// NoBinder means that the host has no binder devices for the phone: its kernel has none, or all are in use.
	NoBinder = "NO_BINDER"
	// RequestIDReused means that the request id named another request before.
	RequestIDReused = "REQUEST_ID_REUSED"
	// JournalTrimmed means that events after the given number are no longer kept; metadata "oldest_seq".
	JournalTrimmed = "JOURNAL_TRIMMED"
	// JournalReset means that the given number is ahead of the journal; metadata "newest_seq".
	JournalReset = "JOURNAL_RESET"
	// Superseded means that another request went before this one; metadata "operation_id" names it.
	Superseded = "SUPERSEDED"
	// GuestEnded means that the guest ended while something was done in it, or with what it has.
	GuestEnded = "GUEST_ENDED"
	// NetworkDisabled means that the host's phones have no network but loopback.
	NetworkDisabled = "NETWORK_DISABLED"
	// NetworkFailed means that a change of a network is stored and could not be brought about yet.
	NetworkFailed = "NETWORK_FAILED"
	// NoSuchPolicy means that no network policy has the name.
	NoSuchPolicy = "NO_SUCH_POLICY"
	// AddressTaken means that another phone has the address.
	AddressTaken = "ADDRESS_TAKEN"
	// NoFreeAddress means that every address of the pool is taken.
	NoFreeAddress = "NO_FREE_ADDRESS"
	// ForwardTaken means that another forward listens there.
	ForwardTaken = "FORWARD_TAKEN"
	// PortTaken means that a process of the host listens there.
	PortTaken = "PORT_TAKEN"
	// NoSuchForward means that the phone has no such forward.
	NoSuchForward = "NO_SUCH_FORWARD"
	// NoSuchAppList means that no list of apps has the name.
	NoSuchAppList = "NO_SUCH_APP_LIST"
	// AppListTaken means that the phone is on another list of apps; metadata "app_list" names it.
	AppListTaken = "APP_LIST_TAKEN"
	// ShuttingDown means that the agent is stopping.
	ShuttingDown = "SHUTTING_DOWN"
)

// Error is an error with a class and a reason.
type Error struct {
	// Class is a sentinel of errdefs; errors.Is finds it.
	Class error
	// Word is the reason that programs test for.
	Word string
	// Message says what is wrong, for people.
	Message string
	// Meta holds details by name; may be nil.
	Meta map[string]string
}

// New returns an Error. The format is that of fmt.Sprintf.
func New(class error, reason, format string, args ...any) *Error {
	return &Error{Class: class, Word: reason, Message: fmt.Sprintf(format, args...)}
}

// Field returns the error for a field of a request that breaks its rule. Field is the field's path in the request as the API
// spells it, such as "spec.memory_bytes".
func Field(field, format string, args ...any) *Error {
	return New(errdefs.ErrInvalidArgument, InvalidField, field+": "+format, args...).With("field", field)
}

// With returns a copy of e that carries one more detail.
func (e *Error) With(name, value string) *Error {
	c := *e
	c.Meta = maps.Clone(e.Meta)
	if c.Meta == nil {
		c.Meta = make(map[string]string, 1)
	}
	c.Meta[name] = value
	return &c
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the class.
func (e *Error) Unwrap() error { return e.Class }

// Reason returns the word.
func (e *Error) Reason() string { return e.Word }

// Reason returns the reason of the first error in err's tree that has one, or "". Every error with a method Reason() string
// counts, so that packages that do not import this one can give reasons too.
func Reason(err error) string {
	var e interface{ Reason() string }
	if errors.As(err, &e) {
		return e.Reason()
	}
	return ""
}

// Words is err's text for people: without the class of errdefs at its end, which is for programs. It is "" for nil.
func Words(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for _, class := range []error{
		errdefs.ErrNotFound, errdefs.ErrUnavailable, errdefs.ErrPermissionDenied, errdefs.ErrInvalidArgument, errdefs.ErrAborted,
		errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition, errdefs.ErrUnauthenticated, errdefs.ErrResourceExhausted,
		errdefs.ErrConflict,
	} {
		if errors.Is(err, class) {
			text = strings.TrimSuffix(text, ": "+class.Error())
		}
	}
	return text
}

// Meta returns the details of the first Error in err's tree, or nil. The caller must not change them.
func Meta(err error) map[string]string {
	var e *Error
	if errors.As(err, &e) {
		return e.Meta
	}
	return nil
}

// Code returns the gRPC code of err's class: OK for nil, and UNKNOWN for an error of no class.
func Code(err error) codes.Code {
	return status.Code(errgrpc.ToGRPC(err))
}
