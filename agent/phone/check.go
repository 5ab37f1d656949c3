package phone

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/runtime/volume"
)

// checkData brings the data of a phone that is off in order, and makes an event of what was found. The phone is the controller's own, or
// the one whose data it copies. The error is a fault of class ErrDataLoss with reason DATA_LOSS for data that is beyond repair.
func (c *controller) checkData(ctx context.Context, r *Record) error { return c.s.checkData(ctx, r) }

// CheckLent is what a controller does before it uses data, for the data of a phone that was lent (Lend): it brings it in order and makes an
// event of what was found. The error is a fault of class ErrDataLoss with reason DATA_LOSS for data that is beyond repair.
func (s *Supervisor) CheckLent(ctx context.Context, snap Snapshot) error {
	return s.checkData(ctx, &snap.Record)
}

func (s *Supervisor) checkData(ctx context.Context, r *Record) error {
	id := r.Spec.ID
	found, err := s.cfg.Volumes.CheckData(ctx, r.container())
	lost := errdefs.IsDataLoss(err)
	if found.Outcome != volume.Clean && (err == nil || lost) {
		s.noteCheck(r, found)
	}
	if lost {
		return fault.New(errdefs.ErrDataLoss, fault.DataLoss, "the data of %s is beyond repair (%s): %s", id, found.Reason,
			orDefault(firstLine(found.Summary), err.Error()))
	}
	return err
}

// noteCheck stores the event of a check before anything follows from it: an operation that ends for it ends after it.
func (s *Supervisor) noteCheck(r *Record, found volume.Report) {
	err := s.cfg.DB.Update(func(tx *store.Tx) error {
		return s.cfg.Journal.Append(tx, event.Event{
			Kind: event.DataChecked, PhoneID: r.Spec.ID, OperationID: r.operationID(), Message: checkWords(found),
			Attributes: map[string]string{"outcome": outcomeWords[found.Outcome], "reason": found.Reason, "summary": fault.Readable(found.Summary)},
		})
	})
	if err != nil {
		s.cfg.Logger.Warn("what a check of the data found is not in the journal", "phone_id", r.Spec.ID, "outcome", found.Outcome.String(), "reason", found.Reason, "error", err)
	}
}

// firstLine returns what a text begins with, up to the end of the line. e2fsck names what is wrong there, and then gives advice.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// outcomeWords are the outcomes of a check as the event DATA_CHECKED carries them.
var outcomeWords = map[volume.Outcome]string{volume.Replayed: "replayed", volume.Mended: "mended", volume.BeyondRepair: "beyond_repair"}

// checkWords is one sentence about what a check found.
func checkWords(found volume.Report) string {
	return map[volume.Outcome]string{
		volume.Replayed:     "the data was brought in order by its journal",
		volume.Mended:       "the data's file system was gone through and mended where it had to be; files may have been lost",
		volume.BeyondRepair: "the data's file system is beyond repair and was left as it is",
	}[found.Outcome] + ": " + found.Reason
}
