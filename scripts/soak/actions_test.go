package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/phonehost/phonehost/agent/job"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// state is what a phone is before and after an action.
type state int

const (
	absent  state = iota // does not exist
	created              // was never started
	off                  // was started once, and is powered off
	running              // has booted
	frozen               // is off, and frozen as ADMIN
	thawed               // was frozen, and is off
	expired              // is off, and frozen as EXPIRED
	renewed              // was frozen as EXPIRED, and is off
	copied               // was never started, and has the data of another phone
)

func (s state) String() string {
	return [...]string{"absent", "created", "off", "running", "frozen", "thawed", "expired", "renewed", "copied"}[s]
}

// status is what the API calls a phone in this state.
func (s state) status() phonehostv1.PhoneStatus {
	switch s {
	case off:
		return phonehostv1.PhoneStatus_PHONE_STATUS_POWERED_OFF
	case running:
		return phonehostv1.PhoneStatus_PHONE_STATUS_RUNNING
	default:
		return phonehostv1.PhoneStatus_PHONE_STATUS_STOPPED
	}
}

// is reports whether a phone is in this state and nothing is under way.
func (s state) is(p *phonehostv1.Phone) bool {
	var want []phonehostv1.FreezeReason
	switch s {
	case frozen:
		want = []phonehostv1.FreezeReason{phonehostv1.FreezeReason_FREEZE_REASON_ADMIN}
	case expired:
		want = []phonehostv1.FreezeReason{phonehostv1.FreezeReason_FREEZE_REASON_EXPIRED}
	}
	var have []phonehostv1.FreezeReason
	for _, f := range p.GetFreezes() {
		have = append(have, f.GetReason())
	}
	return p.GetStatus() == s.status() && p.GetOperationId() == "" && slices.Equal(have, want)
}

// call is one request about one phone; asked again with the same values it is a retry.
type call struct {
	h           *host
	id, request string
	before      *phonehostv1.Phone // as it was before the first try; nil where it did not exist
}

// action is an operation that the test disturbs.
type action struct {
	name     string
	from, to state
	// prepare does what must be done before the first try, undisturbed; may be nil.
	prepare func(ctx context.Context, c call) error
	// ask makes the request; an action that is no operation returns nil.
	ask func(ctx context.Context, c call) (*phonehostv1.Operation, error)
	// boots and resets are how much the phone's generations grow.
	boots, resets uint64
	// check looks at what else must be so afterwards; may be nil.
	check func(ctx context.Context, c call, op *phonehostv1.Operation) error
	// always looks at what must be so whatever was broken, also when the operation has failed; may be nil. op is nil where the action
	// was refused, or is no operation.
	always func(ctx context.Context, c call, op *phonehostv1.Operation) error
	// makes is whether the action makes a second phone, the present one's twin, which is the present one after it.
	makes bool
	// mayEnd are the reasons with which the operation may fail because the agent was killed.
	mayEnd []string
}

// operationAnswer is any answer that holds an operation.
type operationAnswer interface {
	GetOperation() *phonehostv1.Operation
}

// of takes the operation out of an answer.
func of[A operationAnswer](answer A, err error) (*phonehostv1.Operation, error) {
	if err != nil {
		return nil, err
	}
	return answer.GetOperation(), nil
}

// actions lists every operation. One that the agent has not is skipped with a word.
func actions() []action {
	return slices.Concat(phoneActions(), cloneActions(), leaseActions(), appActions(), fileActions())
}

// phoneActions are what phones are asked for, one at a time.
func phoneActions() []action {
	type ctx = context.Context
	type op = *phonehostv1.Operation
	return append(dataActions(), []action{
		{name: "create", from: absent, to: created, ask: askCreate},
		{name: "power_on", from: created, to: running, boots: 1, ask: askOn},
		{name: "power_on_again", from: off, to: running, boots: 1, ask: askOn},
		{name: "power_off", from: running, to: off, ask: func(x ctx, c call) (op, error) {
			return of(c.h.phones().PowerOff(x, &phonehostv1.PowerOffRequest{PhoneIds: []string{c.id}, RequestId: c.request}))
		}},
		{name: "power_off_force", from: running, to: off, ask: func(x ctx, c call) (op, error) {
			return of(c.h.phones().PowerOff(x, &phonehostv1.PowerOffRequest{PhoneIds: []string{c.id}, RequestId: c.request, Force: true}))
		}},
		{name: "restart", from: running, to: running, boots: 1, ask: func(x ctx, c call) (op, error) {
			return of(c.h.phones().Restart(x, &phonehostv1.RestartRequest{PhoneIds: []string{c.id}, RequestId: c.request}))
		}},
		{name: "restart_image", from: running, to: running, boots: 1, check: checkOtherImage, ask: func(x ctx, c call) (op, error) {
			return of(c.h.phones().Restart(x, &phonehostv1.RestartRequest{PhoneIds: []string{c.id}, RequestId: c.request, Image: otherImage(c.before)}))
		}},
		{name: "reset", from: running, to: running, boots: 1, resets: 1, ask: askReset},
		{name: "reset_off", from: off, to: off, resets: 1, ask: askReset},
		{name: "freeze", from: running, to: frozen, ask: func(x ctx, c call) (op, error) {
			return of(c.h.phones().Freeze(x, &phonehostv1.FreezeRequest{
				PhoneIds: []string{c.id}, RequestId: c.request, Reason: phonehostv1.FreezeReason_FREEZE_REASON_ADMIN,
			}))
		}},
		{name: "unfreeze", from: frozen, to: thawed, ask: func(x ctx, c call) (op, error) {
			return of(c.h.phones().Unfreeze(x, &phonehostv1.UnfreezeRequest{PhoneIds: []string{c.id}, RequestId: c.request}))
		}},
		{name: "update", from: running, to: running, check: checkMemory, ask: func(x ctx, c call) (op, error) {
			return askUpdate(x, c, &phonehostv1.PhoneSpec{MemoryBytes: moreMemory(c.before), CpuWeight: 200}, "memory_bytes", "cpu_weight")
		}},
		{name: "grow", from: running, to: running, ask: func(x ctx, c call) (op, error) {
			return askUpdate(x, c, &phonehostv1.PhoneSpec{DataBytes: c.before.GetSpec().GetDataBytes() + 4<<20}, "data_bytes")
		}},
		{name: "grow_off", from: off, to: off, ask: func(x ctx, c call) (op, error) {
			return askUpdate(x, c, &phonehostv1.PhoneSpec{DataBytes: c.before.GetSpec().GetDataBytes() + 4<<20}, "data_bytes")
		}},
		{name: "command", from: running, to: running, mayEnd: []string{job.Interrupted}, check: checkCommand, ask: func(x ctx, c call) (op, error) {
			return of(phonehostv1.NewCommandServiceClient(c.h.api.Control()).StartCommand(x, &phonehostv1.StartCommandRequest{
				PhoneIds: []string{c.id}, RequestId: c.request, Command: "echo done >> /data/" + c.request,
			}))
		}},
		{name: "import_image", from: absent, to: absent, prepare: func(x ctx, c call) error { return removeThird(x, c.h) }, ask: askImport,
			always: func(x ctx, c call, _ op) error { _, err := askImport(x, c); return err }}, // it can be done again, whatever is left of it
		{name: "delete", from: off, to: absent, ask: askDelete},
		{name: "delete_running", from: running, to: absent, ask: askDelete},
	}...)
}

// askCreate makes a phone. Creation has no request id: that the phone exists is how a retry finds out.
func askCreate(ctx context.Context, c call) (*phonehostv1.Operation, error) {
	_, err := c.h.phones().CreatePhone(ctx, &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{
		Id: c.id, Image: images[0], MemoryBytes: 128 << 20, DataBytes: 64 << 20,
	}})
	if status.Code(err) == codes.AlreadyExists {
		err = nil
	}
	return nil, err
}

func askImport(ctx context.Context, c call) (*phonehostv1.Operation, error) {
	return nil, c.h.importImage(ctx, images[2], c.h.archives[2])
}

func askOn(ctx context.Context, c call) (*phonehostv1.Operation, error) {
	return of(c.h.phones().PowerOn(ctx, &phonehostv1.PowerOnRequest{PhoneIds: []string{c.id}, RequestId: c.request}))
}

func askReset(ctx context.Context, c call) (*phonehostv1.Operation, error) {
	return of(c.h.phones().Reset(ctx, &phonehostv1.ResetRequest{PhoneIds: []string{c.id}, RequestId: c.request}))
}

func askDelete(ctx context.Context, c call) (*phonehostv1.Operation, error) {
	return of(c.h.phones().Delete(ctx, &phonehostv1.DeleteRequest{PhoneIds: []string{c.id}, RequestId: c.request, Force: true}))
}

func askUpdate(ctx context.Context, c call, spec *phonehostv1.PhoneSpec, fields ...string) (*phonehostv1.Operation, error) {
	return of(c.h.phones().Update(ctx, &phonehostv1.UpdateRequest{
		PhoneIds: []string{c.id}, RequestId: c.request, Spec: spec, UpdateMask: &fieldmaskpb.FieldMask{Paths: fields},
	}))
}

func otherImage(p *phonehostv1.Phone) string {
	if p.GetSpec().GetImage() == images[0] {
		return images[1]
	}
	return images[0]
}

func moreMemory(p *phonehostv1.Phone) uint64 { return p.GetSpec().GetMemoryBytes() + 1<<20 }

func checkOtherImage(ctx context.Context, c call, _ *phonehostv1.Operation) error {
	p, err := c.phone(ctx)
	if err == nil && (p.GetSpec().GetImage() != otherImage(c.before) || p.GetImageDigest() == c.before.GetImageDigest()) {
		err = fmt.Errorf("image %s %s, want %s", p.GetSpec().GetImage(), p.GetImageDigest(), otherImage(c.before))
	}
	return err
}

func checkMemory(ctx context.Context, c call, _ *phonehostv1.Operation) error {
	p, err := c.phone(ctx)
	if err == nil && (p.GetSpec().GetMemoryBytes() != moreMemory(c.before) || p.GetInitPid() != c.before.GetInitPid()) {
		err = fmt.Errorf("memory %d, init %d, want %d and %d", p.GetSpec().GetMemoryBytes(), p.GetInitPid(), moreMemory(c.before), c.before.GetInitPid())
	}
	return err
}

// checkCommand sees to it that a command was run once if it succeeded, and never twice.
func checkCommand(ctx context.Context, c call, op *phonehostv1.Operation) error {
	out, err := c.shell(ctx, "cat /data/"+c.request+" || true")
	if err != nil {
		return err
	}
	times := strings.Count(out, "done\n")
	if times > 1 || times == 0 && op.GetState() == phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		return fmt.Errorf("the command was run %d times", times)
	}
	return nil
}

func (c call) phone(ctx context.Context) (*phonehostv1.Phone, error) {
	answer, err := c.h.phones().GetPhone(ctx, &phonehostv1.GetPhoneRequest{PhoneId: c.id})
	return answer.GetPhone(), err
}

// shell runs a line in the guest and returns its output.
func (c call) shell(ctx context.Context, line string) (string, error) {
	answer, err := phonehostv1.NewCommandServiceClient(c.h.api.Control()).RunCommand(ctx, &phonehostv1.RunCommandRequest{PhoneIds: []string{c.id}, Command: line})
	if err != nil {
		return "", err
	}
	r := answer.GetResults()[0]
	if r.GetFailure() != nil {
		return "", errors.New(r.GetFailure().GetMessage())
	}
	return string(bytes.Join([][]byte{r.GetOutput().GetStdout(), r.GetOutput().GetStderr()}, nil)), nil
}
