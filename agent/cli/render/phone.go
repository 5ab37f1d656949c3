package render

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// PhoneTable is the table of `phonectl ls`, which can also grow a row at a time while it watches.
type PhoneTable struct {
	table *Table
	now   func() time.Time
}

// NewPhoneTable returns an empty table whose times are told relative to now.
func NewPhoneTable(now func() time.Time) *PhoneTable {
	return &PhoneTable{
		table: NewTable("ID", "STATUS       ", "IMAGE", "VCPUS", "MEMORY", "DISPLAY", "VIEWERS", "UP", "NOTE"),
		now:   now,
	}
}

// Add adds a phone to what Write writes.
func (t *PhoneTable) Add(p *phonehostv1.Phone) { t.table.Row(t.cells(p)...) }

// Write writes the header and the added phones.
func (t *PhoneTable) Write(w io.Writer) error { return t.table.Write(w) }

// Changed writes a row for a phone that has changed.
func (t *PhoneTable) Changed(w io.Writer, p *phonehostv1.Phone) error {
	return t.table.Append(w, t.cells(p)...)
}

// Deleted writes a row for a phone that is gone.
func (t *PhoneTable) Deleted(w io.Writer, id string) error { return t.table.Append(w, id, "deleted") }

func (t *PhoneTable) cells(p *phonehostv1.Phone) []string {
	spec := p.GetSpec()
	return []string{
		spec.GetId(), Status(p.GetStatus()), spec.GetImage(), cores(spec.GetVcpus()), Bytes(spec.GetMemoryBytes()),
		Screen(spec.GetDisplay(), false), strconv.Itoa(int(p.GetViewers())), Since(p.GetStartTime(), t.now()), note(p),
	}
}

// Statuses writes what phones are doing, a row each.
func Statuses(w io.Writer, phones []*phonehostv1.Phone, now time.Time) error {
	t := NewTable("ID", "STATUS", "UP", "LAST BOOT", "VIEWERS", "FRAMES", "OPERATION", "NOTE")
	for _, p := range phones {
		frames := ""
		if d := p.GetDisplay(); d != nil {
			frames = strconv.FormatUint(d.GetFramesCommitted(), 10)
		}
		t.Row(p.GetSpec().GetId(), Status(p.GetStatus()), Since(p.GetStartTime(), now), lastBoot(p),
			strconv.Itoa(int(p.GetViewers())), frames, p.GetOperationId(), note(p))
	}
	return t.Write(w)
}

// Phone writes everything about one phone.
func Phone(w io.Writer, p *phonehostv1.Phone, now time.Time) error {
	var f fields
	spec := p.GetSpec()
	f.add("id", spec.GetId())
	f.add("status", Status(p.GetStatus()))
	f.add("reason", p.GetReason())
	f.add("operation", p.GetOperationId())
	for _, fr := range p.GetFreezes() {
		f.add("frozen", fmt.Sprintf("%s, %s, by %s: `%s`", Freeze(fr.GetReason()), Ago(fr.GetSince(), now), fr.GetRequestedBy(), thaw(fr, spec, now)))
	}
	f.add("lease", lease(spec.GetLease(), now))
	if fields := p.GetPendingRestart(); len(fields) > 0 {
		f.add("at next start", fmt.Sprintf("%s: `phonectl restart %s`", strings.Join(fields, ", "), spec.GetId()))
	}
	if h := p.GetHold(); h != nil {
		f.add("held", fmt.Sprintf("%s, %s: `phonectl on %s` tries again", h.GetReason(), Ago(h.GetSince(), now), spec.GetId()))
	}
	if l := p.GetLastFailure(); l != nil {
		f.add("last failure", fmt.Sprintf("%s%s: %s", kindBefore(l, ", "), Ago(l.GetTime(), now), failure(l)))
	}
	f.add("image", spec.GetImage())
	f.add("image digest", p.GetImageDigest())
	f.add("profile", spec.GetProfile())
	f.add("vcpus", cores(spec.GetVcpus())+", weight "+strconv.Itoa(int(spec.GetCpuWeight())))
	f.add("memory", Bytes(spec.GetMemoryBytes()))
	f.add("data", fmt.Sprintf("%s, generation %d", Bytes(spec.GetDataBytes()), p.GetDataGeneration()))
	if version := p.GetDataAndroidVersion(); version != "" {
		f.add("data used with", "Android "+version)
	}
	f.add("display", Screen(spec.GetDisplay(), true))
	f.add("screen", screenState(p.GetDisplay()))
	f.add("viewers", strconv.Itoa(int(p.GetViewers())))
	f.add("network", networkLine(p))
	f.add("app list", appListLine(p))
	f.add("restart policy", Policy(spec.GetRestartPolicy()))
	f.add("properties", pairs(spec.GetProperties()))
	f.add("labels", pairs(spec.GetLabels()))
	f.add("created", Ago(p.GetCreateTime(), now))
	f.add("started", Ago(p.GetStartTime(), now))
	f.add("booted", Ago(p.GetBootTime(), now))
	f.add("last boot took", lastBoot(p))
	f.add("boots", strconv.FormatUint(p.GetBootGeneration(), 10))
	if pid := p.GetInitPid(); pid != 0 {
		f.add("init pid", strconv.Itoa(int(pid)))
	}
	return f.write(w)
}

// note is the one thing about a phone that an operator should see in a list, or empty.
func note(p *phonehostv1.Phone) string {
	switch {
	case p.GetHold() != nil && strings.HasPrefix(p.GetReason(), p.GetHold().GetReason()):
		return p.GetReason()
	case p.GetHold() != nil && p.GetReason() != "":
		return p.GetHold().GetReason() + ": " + p.GetReason()
	case p.GetHold() != nil:
		return p.GetHold().GetReason()
	case p.GetReason() != "":
		return p.GetReason()
	case p.GetLastFailure() != nil:
		return kindBefore(p.GetLastFailure(), ": ") + failure(p.GetLastFailure())
	}
	return ""
}

// kindBefore writes the kind of the operation that failed; nothing for a failure that was none's.
func kindBefore(f *phonehostv1.Failure, separator string) string {
	if f.GetOperationKind() == phonehostv1.OperationKind_OPERATION_KIND_UNSPECIFIED {
		return ""
	}
	return Kind(f.GetOperationKind()) + separator
}

// thaw is the command that takes a reason to freeze away.
func thaw(f *phonehostv1.Freeze, spec *phonehostv1.PhoneSpec, now time.Time) string {
	over := spec.GetLease().GetExpiresAt() != nil && !now.Before(spec.GetLease().GetExpiresAt().AsTime())
	if over && f.GetReason() == phonehostv1.FreezeReason_FREEZE_REASON_EXPIRED {
		return fmt.Sprintf("phonectl renew %s --expires 24h", spec.GetId())
	}
	return fmt.Sprintf("phonectl unfreeze %s --reason %s", spec.GetId(), Freeze(f.GetReason()))
}

// lease writes until when a phone may be used, and how long its data is kept; empty without a lease.
func lease(l *phonehostv1.Lease, now time.Time) string {
	var parts []string
	if at := l.GetExpiresAt(); at != nil {
		word := "expires "
		if !now.Before(at.AsTime()) {
			word = "expired "
		}
		parts = append(parts, word+Moment(at, now))
	}
	if at := l.GetRetainUntil(); at != nil {
		parts = append(parts, "data kept until "+Moment(at, now))
	}
	return strings.Join(parts, "; ")
}

// failure writes why an operation did not succeed, reason first where there is one.
func failure(f *phonehostv1.Failure) string {
	switch {
	case f.GetReason() == "":
		return f.GetMessage()
	case f.GetMessage() == "":
		return f.GetReason()
	}
	return f.GetReason() + ": " + f.GetMessage()
}

func screenState(d *phonehostv1.DisplayState) string {
	switch {
	case d == nil:
		return ""
	case !d.GetConnected():
		return "display lost"
	case !d.GetHasContent():
		return "nothing drawn yet, display " + d.GetVersion()
	}
	return fmt.Sprintf("%d frames committed, %d changed, %d encoded, display %s",
		d.GetFramesCommitted(), d.GetFramesChanged(), d.GetFramesEncoded(), d.GetVersion())
}

func lastBoot(p *phonehostv1.Phone) string {
	if p.GetLastBootDuration() == nil {
		return ""
	}
	return Span(p.GetLastBootDuration().AsDuration())
}

func cores(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }
