package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// progress shows how an operation goes on. On a terminal the last line is rewritten and holds what is under way, and every
// phone that ends gets a line of its own above it; elsewhere every change is a plain line.
type progress struct {
	w     io.Writer
	live  bool
	width int // columns of the terminal
	shown map[string]string
	line  string // what the terminal's last line holds now
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, shown: make(map[string]string)}
	if f, ok := terminal(w); ok {
		p.live, p.width = true, 80
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			p.width = width
		}
	}
	return p
}

// update shows what has changed since the last update.
func (p *progress) update(op *phonehostv1.Operation) {
	var doing []string
	done := 0
	for _, r := range op.GetResults() {
		running := r.GetState() == phonehostv1.OperationState_OPERATION_STATE_RUNNING
		if running {
			doing = append(doing, r.GetPhoneId()+": "+describe(op, r))
		} else {
			done++
		}
		text := describe(op, r)
		if p.shown[r.GetPhoneId()] == text || (running && (p.live || r.GetProgress() == "")) {
			continue
		}
		p.shown[r.GetPhoneId()] = text
		p.rewrite("")
		fmt.Fprintf(p.w, "%s: %s\n", r.GetPhoneId(), text) //nolint:errcheck // words to a terminal
	}
	if !p.live || len(doing) == 0 {
		return
	}
	line := strings.Join(doing, ", ")
	if len(op.GetResults()) > 1 {
		line = fmt.Sprintf("%d of %d done; %s", done, len(op.GetResults()), line)
	}
	p.rewrite(line)
}

// end clears the line that is being rewritten.
func (p *progress) end() { p.rewrite("") }

// rewrite replaces the terminal's last line by line, cut to the terminal's width.
func (p *progress) rewrite(line string) {
	if !p.live || line == p.line {
		return
	}
	if utf8.RuneCountInString(line) >= p.width {
		line = string([]rune(line)[:max(0, p.width-2)]) + "…"
	}
	p.line = line
	io.WriteString(p.w, "\r\x1b[K"+line) //nolint:errcheck // words to a terminal
}

// describe puts a phone's part of an operation into words.
func describe(op *phonehostv1.Operation, r *phonehostv1.OperationResult) string {
	kind := render.Kind(op.GetKind())
	switch r.GetState() {
	case phonehostv1.OperationState_OPERATION_STATE_RUNNING:
		if r.GetProgress() == "" {
			return kind
		}
		return render.Printable(r.GetProgress())
	case phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED:
		if r.GetEndTime() != nil && op.GetCreateTime() != nil {
			return fmt.Sprintf("%s done in %s", kind, render.Span(r.GetEndTime().AsTime().Sub(op.GetCreateTime().AsTime())))
		}
		return kind + " done"
	}
	text := kind + " " + render.State(r.GetState())
	if note := render.ResultNote(r); note != "" {
		text += ": " + render.Printable(note)
	}
	return text
}
