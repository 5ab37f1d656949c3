package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// progress shows how an operation goes on. On a terminal its last lines are rewritten: a bar with how many phones are done, what is
// under way, and which wait for a boot slot; every phone that ends gets a line of its own above them. Elsewhere every change is a plain
// line.
type progress struct {
	w     io.Writer
	tty   *os.File // w, where that is a terminal
	shown map[string]string
	block []string // what the terminal's last lines hold now
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, shown: make(map[string]string)}
	if f, ok := terminal(w); ok {
		p.tty = f
	}
	return p
}

// update shows what has changed since the last update.
func (p *progress) update(op *phonehostv1.Operation) {
	var news strings.Builder
	for _, r := range op.GetResults() {
		running := r.GetState() == phonehostv1.OperationState_OPERATION_STATE_RUNNING
		text := describe(op, r)
		if p.shown[r.GetPhoneId()] == text || running && (p.tty != nil || r.GetProgress() == "") {
			continue
		}
		p.shown[r.GetPhoneId()] = text
		fmt.Fprintf(&news, "%s: %s\n", r.GetPhoneId(), text)
	}
	p.rewrite(news.String(), p.underWay(op))
}

// end clears the lines that are being rewritten.
func (p *progress) end() { p.rewrite("", nil) }

// rewrite puts news above the terminal's last lines, and a new block in their place.
func (p *progress) rewrite(news string, block []string) {
	if p.tty == nil {
		io.WriteString(p.w, news) //nolint:errcheck // words
		return
	}
	if news == "" && slices.Equal(block, p.block) {
		return
	}
	text := "\r"
	if n := len(p.block); n > 1 {
		text = fmt.Sprintf("\x1b[%dA\r", n-1)
	}
	io.WriteString(p.w, text+"\x1b[J"+news+strings.Join(block, "\n")) //nolint:errcheck // words to a terminal
	p.block = block
}

// underWay returns the lines about those phones that are not done; none elsewhere than on a terminal, or when all are.
func (p *progress) underWay(op *phonehostv1.Operation) []string {
	if p.tty == nil {
		return nil
	}
	var doing groups
	var queued []string
	all, failed := len(op.GetResults()), 0
	for _, r := range op.GetResults() {
		switch {
		case r.GetState() == phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED:
		case r.GetState() != phonehostv1.OperationState_OPERATION_STATE_RUNNING:
			failed++
		case all > 1 && strings.HasPrefix(r.GetProgress(), queuedWord):
			queued = append(queued, r.GetPhoneId())
		default:
			doing.add(describe(op, r), r.GetPhoneId())
		}
	}
	left := doing.phones + len(queued)
	columns := p.columns()
	var lines []string
	switch {
	case left == 0:
		return nil
	case all == 1:
		lines = append(lines, doing.ids[0][0]+": "+doing.texts[0])
	default:
		line := fmt.Sprintf("%s %d of %d done", bar(all-left, all, columns/4), all-left-failed, all)
		if failed > 0 {
			line += fmt.Sprintf(", %d failed", failed)
		}
		lines = append(lines, line)
	}
	if all > 1 && doing.phones > 0 {
		lines = append(lines, doing.String())
	}
	if len(queued) > 0 {
		lines = append(lines, fmt.Sprintf("%s: %d, %s", queuedWord, len(queued), strings.Join(queued, ", ")))
	}
	for i, line := range lines {
		lines[i] = cut(line, columns)
	}
	return lines
}

// groups are phones by what is being done with them, in the order in which that was first seen.
type groups struct {
	texts  []string
	ids    [][]string
	phones int
}

func (g *groups) add(text, id string) {
	g.phones++
	i := slices.Index(g.texts, text)
	if i < 0 {
		g.texts, g.ids = append(g.texts, text), append(g.ids, nil)
		i = len(g.texts) - 1
	}
	g.ids[i] = append(g.ids[i], id)
}

// String returns "starting the guest: cp-1, cp-2; preparing: cp-3".
func (g *groups) String() string {
	var all []string
	for i, text := range g.texts {
		all = append(all, text+": "+strings.Join(g.ids[i], ", "))
	}
	return strings.Join(all, "; ")
}

// queuedWord begins the progress of a phone that waits for a boot slot.
const queuedWord = "QUEUED"

// columns is the width of the terminal now.
func (p *progress) columns() int {
	if width, _, err := term.GetSize(int(p.tty.Fd())); err == nil && width > 0 {
		return width
	}
	return 80
}

// bar draws how much is done, in 10 to 40 characters.
func bar(done, all, width int) string {
	cells := min(max(width, 10), 40) - 2
	filled := done * cells / max(all, 1)
	text := strings.Repeat("=", filled)
	if filled < cells {
		text += ">" + strings.Repeat("-", cells-filled-1)
	}
	return "[" + text + "]"
}

// cut shortens a line so that it ends before the terminal's edge.
func cut(line string, columns int) string {
	if utf8.RuneCountInString(line) < columns {
		return line
	}
	return string([]rune(line)[:max(0, columns-2)]) + "…"
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
