package phone

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/container"
)

// errGone ends the loop of a phone that has been deleted.
var errGone = errors.New("phone is deleted")

// act does one step. Every step may be done again after a crash at any point of it.
func (c *controller) act(ctx context.Context, s step, r *Record, saw sight) error {
	limit := c.s.timing.StepTimeout
	if s == stepClone || s == stepGrow || s == stepImport {
		limit = c.s.timing.CopyTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	rt := c.s.cfg.Runtime
	switch s {
	case stepExpire:
		return c.expire()
	case stepClone:
		return c.clone(ctx, r)
	case stepImport:
		return c.importData(ctx, r)
	case stepDropArchive:
		return c.dropArchive(r.Import)
	case stepNetwork:
		return c.ensureNetwork(ctx, false)
	case stepLimits:
		return c.setLimits(ctx, r, saw)
	case stepGrow:
		return c.grow(ctx, r)
	case stepFinishChange:
		return c.s.change(c.id, func(tx *store.Tx, r *Record) error {
			if !r.changed() {
				return nil // another has come
			}
			return c.s.finishChange(tx, r)
		})
	case stepEnd:
		return c.end(ctx, r, saw)
	case stepDestroy:
		return c.destroy(ctx, r)
	case stepShutdown:
		c.progress(r, "shutting down")
		if err := rt.Shutdown(ctx, c.id); err != nil {
			return err
		}
		c.mem.shutdownSent = true
		return nil
	case stepKill:
		return c.kill(ctx, r)
	case stepStart:
		return c.start(ctx, r, saw)
	case stepStarted:
		return c.started(r, saw)
	case stepDisplay:
		return c.restartDisplay(ctx, r, saw)
	case stepTrack:
		c.mem.tracked = true
		return c.s.cfg.Displays.Track(c.id)
	case stepAskBoot:
		return c.askBoot(ctx, r, saw)
	case stepBootTimeout:
		return c.bootTimeout(ctx, r)
	case stepRenew:
		return c.renew(ctx, r)
	case stepKeep:
		return c.keep(ctx, r)
	case stepRemoveGuest:
		return rt.RemoveGuest(ctx, c.id)
	case stepRemoveDisplay:
		c.s.cfg.Displays.Close(c.id)
		c.mem.tracked = false
		return rt.RemoveDisplay(ctx, c.id)
	case stepFinish:
		return c.finish()
	}
	return fmt.Errorf("step %d: %w", s, errdefs.ErrNotImplemented)
}

// start brings up what a guest needs, in the order that lets no guest run without it, and then the guest.
//
// A crash after any of the calls leaves something that the next try finds and keeps.
func (c *controller) start(ctx context.Context, r *Record, saw sight) error {
	c.resetBoot()
	err := c.bringUp(ctx, r, saw)
	if err == nil || ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) || errdefs.IsUnavailable(err) {
		return err
	}
	if !permanent(err) && c.attempt(stepStart) < c.s.timing.StartAttempts {
		return err
	}
	generation := r.BootGeneration
	return c.s.change(c.id, func(_ *store.Tx, r *Record) error {
		if r.wantsGuest() && r.BootGeneration == generation {
			r.hold(HoldStartFailed, fault.Code(err), orDefault(fault.Reason(err), HoldStartFailed), err.Error(), time.Now())
		}
		return nil
	})
}

// bringUp makes the calls of a start.
func (c *controller) bringUp(ctx context.Context, r *Record, saw sight) error {
	p, rt := c.s.next(r), c.s.cfg.Runtime
	c.progress(r, "preparing")
	if g := saw.obs.Guest; g.Container && g.ImageDigest != r.ImageDigest {
		// The root of the former image goes with the container that names it.
		if err := rt.RemoveGuest(ctx, c.id); err != nil {
			return err
		}
	}
	if err := c.ensureNetwork(ctx, true); err != nil {
		return err
	}
	if err := c.checkData(ctx, r); err != nil {
		return err
	}
	if err := rt.Prepare(ctx, p); err != nil {
		return err
	}
	c.progress(r, "starting the display")
	displayUp := saw.obs.Display.State == container.TaskRunning
	if displayUp && !r.Spec.sameDisplay(saw.obs.Display) {
		// An Update has changed the screen. The guest does not run, so nothing is taken from it.
		if err := rt.RemoveDisplay(ctx, c.id); err != nil {
			return err
		}
		displayUp = false
	}
	ready, release := c.watchDisplay(ctx)
	defer release()
	if err := rt.StartDisplay(ctx, p); err != nil {
		return err
	}
	if !displayUp {
		c.s.cfg.Journal.Emit(event.Event{Kind: event.DisplayStarted, PhoneID: c.id, OperationID: r.operationID(), Message: "the display was started"})
	}
	if err := c.awaitDisplay(ctx, ready); err != nil {
		return err
	}
	if err := c.s.cfg.AppLists.Ready(ctx, c.id); err != nil {
		return err
	}
	c.progress(r, "starting the guest")
	return rt.StartGuest(ctx, p)
}

// watchDisplay returns a context that ends when the display does, or is too slow to answer.
func (c *controller) watchDisplay(ctx context.Context) (ready context.Context, release func()) {
	ready, cancel := context.WithTimeout(ctx, c.s.timing.DisplayTimeout)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.displayGone = cancel
	return ready, func() {
		cancel()
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		c.displayGone = nil
	}
}

// awaitDisplay waits until the display answers, and says why where it does not.
func (c *controller) awaitDisplay(ctx, ready context.Context) error {
	err := c.s.cfg.Displays.WaitReady(ready, c.id)
	switch {
	case err == nil:
		c.mem.tracked = true
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(ready.Err(), context.Canceled):
		return fmt.Errorf("wait for the display of %s: it ended: %w", c.id, errdefs.ErrAborted)
	case errors.Is(ready.Err(), context.DeadlineExceeded):
		return fmt.Errorf("wait for the display of %s: no answer within %s: %w", c.id, c.s.timing.DisplayTimeout, errdefs.ErrAborted)
	}
	return fmt.Errorf("wait for the display of %s: %v: %w", c.id, err, errdefs.ErrAborted)
}

// permanent reports whether a start that failed would fail again in the same way.
func permanent(err error) bool {
	return errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) ||
		errdefs.IsNotImplemented(err) || errdefs.IsResourceExhausted(err) || errdefs.IsDataLoss(err)
}

// attempt returns which try in a row of a step the present one is, from 1.
func (c *controller) attempt(s step) int {
	if c.mem.failed != s {
		return 1
	}
	return c.fails + 1
}

// resetBoot forgets what belongs to an earlier guest.
func (c *controller) resetBoot() {
	c.mem.shutdownSent, c.mem.nextAsk = false, time.Time{}
	c.asks, c.silences, c.seen = 0, 0, ""
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.kills = kills{}
}

// started records that the wanted guest runs.
func (c *controller) started(r *Record, saw sight) error {
	generation, pid, at := r.BootGeneration, saw.obs.Guest.PID, saw.obs.Guest.StartedAt
	return c.s.change(c.id, func(tx *store.Tx, r *Record) error {
		r.Started = Start{Generation: generation, HostBoot: c.s.cfg.HostBoot, At: at}
		// From its start on a guest may bring the data to its version, whether it boots or not.
		if r.ImageAndroid != "" && r.ImageDigest == saw.obs.Guest.ImageDigest && !newerAndroid(r.DataAndroid, r.ImageAndroid) {
			r.DataAndroid = r.ImageAndroid
		}
		return c.s.cfg.Journal.Append(tx, event.Event{
			Kind: event.GuestStarted, PhoneID: c.id, OperationID: r.operationID(), Message: "the guest was started",
			Attributes: map[string]string{"pid": strconv.FormatUint(uint64(pid), 10)},
		})
	})
}

// restartDisplay starts a display that ended under its guest: at once, and with back-off when it goes on ending.
func (c *controller) restartDisplay(ctx context.Context, r *Record, saw sight) error {
	now := time.Now()
	if now.Sub(c.displayStart) > c.s.timing.Retry[1] {
		c.displays = 0
	}
	c.displays++
	c.displayStart = now
	c.mem.displayAt = now.Add(backoff(c.s.timing.Retry, c.displays))
	code, message := "", "the display is gone"
	if d := saw.obs.Display; d.State == container.TaskStopped {
		code = strconv.FormatUint(uint64(d.ExitCode), 10)
		message = "the display ended with code " + code
	}
	c.s.cfg.Journal.Emit(event.Event{
		Kind: event.DisplayExited, PhoneID: c.id, Message: message, Attributes: map[string]string{"exit_code": code},
	})
	c.logger.Warn("display ended under its guest; starting it again", "exit_code", code)
	ready, release := c.watchDisplay(ctx)
	defer release()
	if err := c.s.cfg.Runtime.StartDisplay(ctx, r.container()); err != nil {
		return err
	}
	c.s.cfg.Journal.Emit(event.Event{Kind: event.DisplayStarted, PhoneID: c.id, Message: "the display was started again"})
	return c.awaitDisplay(ctx, ready)
}

// askBoot asks the guest once whether its boot has completed. A guest that cannot answer yet is not an error. One that takes too long for
// an answer gets more time with the next question: on a host where a hundred guests boot at once, no question would be answered otherwise,
// and each that is given up costs as much as one that is.
func (c *controller) askBoot(ctx context.Context, r *Record, saw sight) error {
	c.progress(r, "waiting for boot completed")
	t := c.s.timing
	patience := time.Now().Add(backoff([2]time.Duration{t.AskTimeout, t.StepTimeout}, c.silences+1))
	actx, cancel := context.WithDeadline(ctx, earliest(patience, saw.obs.Guest.StartedAt.Add(t.BootTimeout)))
	defer cancel()
	done, seen, err := c.s.cfg.Runtime.BootCompleted(actx, c.id)
	if err != nil && actx.Err() != nil {
		c.silences++
	} else {
		c.silences = 0
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		c.seen = "no answer: " + err.Error()
	case !done:
		c.seen = seen
	default:
		return c.booted(r, saw)
	}
	c.asks++
	pause := backoff(t.BootPoll, c.asks)
	if !c.mem.drawn {
		pause = t.BootPoll[1]
	}
	c.mem.nextAsk = time.Now().Add(pause)
	return nil
}

// booted records that the wanted boot has completed, and ends the operation if nothing else is left to do.
func (c *controller) booted(r *Record, saw sight) error {
	generation, now := r.BootGeneration, time.Now()
	took := max(now.Sub(saw.obs.Guest.StartedAt), 0)
	return c.s.change(c.id, func(tx *store.Tx, r *Record) error {
		r.Booted = Boot{Generation: generation, Time: now, Duration: took}
		err := c.s.cfg.Journal.Append(tx, event.Event{
			Kind: event.GuestBooted, PhoneID: c.id, OperationID: r.operationID(), Message: "the guest has booted",
			Attributes: map[string]string{"boot_ms": strconv.FormatInt(took.Milliseconds(), 10)},
		})
		if err != nil || !r.booted() || r.KeptGeneration != r.DataGeneration {
			return err
		}
		return c.s.finishTask(tx, r)
	})
}

// bootTimeout gives up on a boot: the phone is held, and its guest ended by the following steps.
func (c *controller) bootTimeout(ctx context.Context, r *Record) error {
	generation := r.BootGeneration
	message := fmt.Sprintf("the guest has not reported boot completed within %s; last seen: %s",
		c.s.timing.BootTimeout, orDefault(c.seen, "nothing"))
	if line := lastLine(c.logTail(ctx, r)); line != "" {
		message += "; last log line: " + line
	}
	return c.s.change(c.id, func(_ *store.Tx, r *Record) error {
		if r.wantsGuest() && r.BootGeneration == generation {
			r.hold(HoldBootFailed, codes.DeadlineExceeded, "BOOT_TIMEOUT", message, time.Now())
		}
		return nil
	})
}

// kill ends a guest that must end now. Its exit is an event, which wakes the loop; the step is tried again in case it is missed.
func (c *controller) kill(ctx context.Context, r *Record) error {
	c.progress(r, "killing the guest")
	if err := c.s.cfg.Runtime.Kill(ctx, c.id, container.Guest); err != nil {
		return err
	}
	c.wait(ctx, time.Now().Add(c.s.timing.Retry[0]))
	return nil
}
