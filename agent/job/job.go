// Package job does the operations that work inside running guests and leave alone what phones should be: commands, installations,
// starts and stops of apps.
//
// Such an operation is durable as every other: it is stored, with the payload that its kind needs, before anything is done, and each
// phone's part ends in a transaction. What the agent's death interrupts is taken up by the next one: a kind that may be done again
// is (an installation, whose files are kept); any other is first ended in the guest and then ends FAILED with reason INTERRUPTED. So
// nothing is lost, and nothing is done twice that must not be.
//
// A job needs a RUNNING phone and is no obstacle to a request that changes the phone: a guest that ends, ends its jobs with reason
// GUEST_ENDED.
//
// Goroutines: the Runner owns one goroutine per part, of which PerPhone work in a phone and AtOnce on the host at the same time;
// the others wait. Close waits for all of them. All methods may be called by many goroutines at once.
package job

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/store"
)

// Bounds of what is done at the same time.
const (
	// PerPhone is how many parts work in one phone.
	PerPhone = 4
	// AtOnce is how many parts work on the host.
	AtOnce = 128
	// MaxWaiting is how many parts of one phone may work and wait; more are refused with TOO_MANY_JOBS.
	MaxWaiting = 64
)

// Reasons of failures; docs/api.md has them.
const (
	// Interrupted means that the agent ended while the part worked.
	Interrupted = "INTERRUPTED"
	// GuestEnded means that the guest ended while the part worked.
	GuestEnded = fault.GuestEnded
	// TooMany means that the phone has MaxWaiting parts already.
	TooMany = "TOO_MANY_JOBS"
)

// Work is one part: an operation in one phone.
type Work struct {
	// OperationID and PhoneID name it. Together they name what it leaves in the guest, so that another agent finds it.
	OperationID, PhoneID string
	// Payload is what Submit was given.
	Payload json.RawMessage
	// Again tells that an agent which died had begun the part: all of it may have been done.
	Again bool
	// Progress tells those who watch the operation what is being done.
	Progress func(text string)
}

// Handler does the operations of one kind. Its functions are called by many goroutines at once.
type Handler struct {
	// Do does a part. It returns when nothing of it is left in the guest; the end of ctx ends it. An error is the part's failure; the
	// output, which may be nil, is kept in either case.
	Do func(ctx context.Context, w Work) (*operation.Output, error)
	// Again tells that a part which was interrupted may be done again from its beginning.
	Again bool
	// Abandon ends what an interrupted part has left in the guest, before it ends as INTERRUPTED. nil: there is nothing.
	Abandon func(ctx context.Context, w Work) error
	// Clean removes what the payload names; it is called after the last part has ended, and may be called again. nil: nothing.
	Clean func(payload json.RawMessage)
}

// Phones is what the Runner needs to know of the phones (phone.Supervisor).
type Phones interface {
	// Get returns a phone, or ErrNotFound.
	Get(id string) (phone.Snapshot, error)
	// Watch reports the phones as they are, and their changes.
	Watch(ids []string) *phone.Watcher
}

// Config is what a Runner works with. All fields are required.
type Config struct {
	DB         *store.DB
	Operations *operation.Table
	Phones     Phones
	// Handlers are the kinds that the Runner does.
	Handlers map[operation.Kind]Handler
	Logger   *slog.Logger
}

// Runner does jobs.
type Runner struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	host   chan struct{} // one value per part that works

	mu     sync.Mutex
	closed bool
	lanes  map[string]*lane // by phone; there is one while the phone has parts
}

// lane bounds the parts of one phone.
type lane struct {
	parts int           // that work or wait
	turns chan struct{} // one value per part that works
}

// New returns a Runner. Resume takes up what an earlier agent left.
func New(cfg Config) (*Runner, error) {
	if cfg.DB == nil || cfg.Operations == nil || cfg.Phones == nil || cfg.Logger == nil || len(cfg.Handlers) == 0 {
		return nil, fmt.Errorf("start jobs: every field of the configuration is required: %w", errdefs.ErrInvalidArgument)
	}
	r := &Runner{cfg: cfg, host: make(chan struct{}, AtOnce), lanes: map[string]*lane{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// Close ends what is under way and waits for it. The operations go on with the next agent.
func (r *Runner) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// running returns the phone, or a fault of what forbids a job in it.
func (r *Runner) running(id string) (phone.Snapshot, error) { return Running(r.cfg.Phones, id) }

// Running returns a phone that runs; else a fault: NO_SUCH_PHONE, CONTAINERD_LOST or NOT_RUNNING.
func Running(phones Phones, id string) (phone.Snapshot, error) {
	snap, err := phones.Get(id)
	if err != nil {
		return snap, err
	}
	switch snap.Status {
	case phone.Running:
		return snap, nil
	case phone.Unknown:
		return snap, fault.New(errdefs.ErrUnavailable, fault.ContainerdLost, "phone %s: containerd does not answer, so its state is not known", id)
	}
	return snap, fault.New(errdefs.ErrFailedPrecondition, fault.NotRunning, "phone %s is %s", id, snap.Status)
}

// noticeTime is how long the end of a guest may take to be noticed after what ran in it has ended.
const noticeTime = 2 * time.Second

// EndedWith reports whether the guest that ran when before was taken has ended. What runs in a guest ends with it, and may tell of its
// own end before the phone's controller has seen the guest's: so this waits a moment for it.
func EndedWith(ctx context.Context, phones Phones, before phone.Snapshot) bool {
	ctx, cancel := context.WithTimeout(ctx, noticeTime)
	defer cancel()
	w := phones.Watch([]string{before.Record.Spec.ID})
	defer w.Close()
	for {
		changes, err := w.Next(ctx)
		if err != nil {
			return false
		}
		for _, c := range changes {
			if c.Deleted || c.Snapshot.Status != phone.Unknown && !c.Snapshot.SameRun(before) {
				return true
			}
		}
	}
}

// Ended returns the fault for what ended with the guest.
func Ended(id string) error {
	return fault.New(errdefs.ErrAborted, GuestEnded, "the guest of %s ended meanwhile", id)
}
