package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/phonehost/phonehost/agent/cli/render"
)

// transfer shows how far bytes have come: as a bar on a terminal, elsewhere as a line when what is under way changes and
// at the end. It is used by one goroutine, and ends with done or abandon.
type transfer struct {
	w     io.Writer
	what  string
	stage string
	moved uint64

	bars *mpb.Progress // nil where w is no terminal
	bar  *mpb.Bar
}

func newTransfer(w io.Writer, what string) *transfer {
	t := &transfer{w: w, what: what}
	f, ok := terminal(w)
	if !ok {
		return t
	}
	t.bars = mpb.New(mpb.WithOutput(f), mpb.WithWidth(barWidth(f)))
	t.bar = t.bars.AddBar(0,
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return t.what + " " })),
		mpb.AppendDecorators(
			decor.Any(func(s decor.Statistics) string {
				if s.Total <= 0 {
					return render.Bytes(uint64(s.Current))
				}
				return fmt.Sprintf("%s of %s", render.Bytes(uint64(s.Current)), render.Bytes(uint64(s.Total)))
			}),
		),
	)
	return t
}

// barWidth leaves room for the name and the figures beside the bar.
func barWidth(f *os.File) int {
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	return min(64, width/2)
}

// at tells what is under way and how far it is; a total of 0 is unknown.
func (t *transfer) at(stage string, moved, total uint64) {
	t.moved = moved
	if t.bar != nil {
		t.bar.SetTotal(int64(total), false)
		t.bar.SetCurrent(int64(moved))
		return
	}
	if stage != "" && stage != t.stage {
		t.stage = stage
		fmt.Fprintf(t.w, "%s: %s\n", t.what, render.Printable(stage)) //nolint:errcheck // words
	}
}

// done ends the display of a transfer that has arrived.
func (t *transfer) done() {
	if t.bar != nil {
		t.bar.SetTotal(int64(t.moved), true)
		t.bars.Wait()
		t.bar = nil
	}
}

// abandon ends the display of a transfer that has not arrived; after done it does nothing.
func (t *transfer) abandon() {
	if t.bar != nil {
		t.bar.Abort(true)
		t.bars.Wait()
		t.bar = nil
	}
}
