package render

import (
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// Operations writes operations, a row each.
func Operations(w io.Writer, ops []*phonehostv1.Operation, now time.Time) error {
	t := NewTable("ID", "KIND", "STATE", "PHONES", "BY", "CREATED", "TOOK")
	for _, op := range ops {
		t.Row(op.GetId(), Kind(op.GetKind()), State(op.GetState()), phoneIDs(op), op.GetRequestedBy(),
			Ago(op.GetCreateTime(), now), took(op))
	}
	return t.Write(w)
}

// Operation writes one operation and its result for every phone.
func Operation(w io.Writer, op *phonehostv1.Operation, now time.Time) error {
	var f fields
	f.add("id", op.GetId())
	f.add("kind", Kind(op.GetKind()))
	f.add("state", State(op.GetState()))
	f.add("requested by", op.GetRequestedBy())
	f.add("request id", op.GetRequestId())
	f.add("created", Ago(op.GetCreateTime(), now))
	f.add("took", took(op))
	if err := f.write(w); err != nil {
		return err
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	t := NewTable("PHONE", "STATE", "NOTE")
	for _, r := range op.GetResults() {
		t.Row(r.GetPhoneId(), State(r.GetState()), ResultNote(r))
	}
	if err := t.Write(w); err != nil {
		return err
	}
	return outputs(w, op.GetResults())
}

// outputs writes what an operation's command printed in each phone.
func outputs(w io.Writer, results []*phonehostv1.OperationResult) error {
	for _, r := range results {
		out := r.GetOutput()
		if len(out.GetStdout())+len(out.GetStderr()) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "\noutput of %s, exit code %s:\n", r.GetPhoneId(), exitCode(out)); err != nil {
			return err
		}
		if err := commandOutput(w, "  ", out); err != nil {
			return err
		}
	}
	return nil
}

// exitCode is a command's exit code, or that it has none.
func exitCode(out *phonehostv1.CommandOutput) string {
	if out.ExitCode == nil {
		return "none"
	}
	return fmt.Sprint(out.GetExitCode())
}

// ResultNote says why a phone's part failed or was aborted, or what is being done now.
func ResultNote(r *phonehostv1.OperationResult) string {
	if r.GetFailure() != nil {
		return failure(r.GetFailure())
	}
	if r.GetState() == phonehostv1.OperationState_OPERATION_STATE_RUNNING {
		return r.GetProgress()
	}
	return ""
}

// Events writes the header of the table of events, and then a line for each event as it comes.
type Events struct {
	table *Table
	begun bool
}

// NewEvents returns a table of events.
func NewEvents() *Events {
	return &Events{table: NewTable("SEQ   ", "TIME               ", "KIND             ", "PHONE   ", "EVENT")}
}

// Write writes one event, and the header before the first.
func (e *Events) Write(w io.Writer, ev *phonehostv1.Event) error {
	if !e.begun {
		e.begun = true
		if err := e.table.Write(w); err != nil {
			return err
		}
	}
	text := ev.GetMessage()
	attributes := maps.Clone(ev.GetAttributes())
	if log := strings.TrimRight(attributes["log"], "\n"); log != "" {
		// A guest's last words are many lines; JSON has them all.
		text += "; last line: " + cut(log[strings.LastIndexByte(log, '\n')+1:], maxLogLine)
	}
	delete(attributes, "log")
	maps.DeleteFunc(attributes, func(_, value string) bool { return strings.Contains(text, value) }) // the message has said it
	if attrs := pairs(attributes); attrs != "" {
		text = strings.TrimSpace(text + " (" + attrs + ")")
	}
	return e.table.Append(w, fmt.Sprint(ev.GetSeq()), ev.GetTime().AsTime().UTC().Format(time.DateTime),
		EventKind(ev.GetKind()), ev.GetPhoneId(), text)
}

// maxLogLine is how many characters of a guest's last line a table shows.
const maxLogLine = 120

// cut shortens a text to n characters.
func cut(text string, n int) string {
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n]) + "…"
	}
	return text
}

// phoneIDs names an operation's phones, the first three at most.
func phoneIDs(op *phonehostv1.Operation) string {
	var ids []string
	for _, r := range op.GetResults() {
		if len(ids) == 3 {
			return fmt.Sprintf("%s and %d more", strings.Join(ids, ","), len(op.GetResults())-3)
		}
		ids = append(ids, r.GetPhoneId())
	}
	return strings.Join(ids, ",")
}

func took(op *phonehostv1.Operation) string {
	if op.GetEndTime() == nil || op.GetCreateTime() == nil {
		return ""
	}
	return Span(op.GetEndTime().AsTime().Sub(op.GetCreateTime().AsTime()))
}
