package initd

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// output prints lines to init's standard output without ever waiting for it: whoever reads it may have stopped. Lines that do not fit the
// queue are dropped and counted. One goroutine writes.
type output struct {
	lines chan any // a string to print, or a chan struct{} to close

	mu      sync.Mutex
	dropped int
}

func newOutput(w io.Writer) *output {
	o := &output{lines: make(chan any, 512)}
	go func() {
		for item := range o.lines {
			switch item := item.(type) {
			case string:
				fmt.Fprintln(w, item)
			case chan struct{}:
				close(item)
			}
		}
	}()
	return o
}

// printf prints a message of init.
func (o *output) printf(format string, args ...any) { o.print("init: " + fmt.Sprintf(format, args...)) }

// print queues one line.
func (o *output) print(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dropped > 0 {
		select {
		case o.lines <- fmt.Sprintf("init: %d lines dropped, nobody reads them", o.dropped):
			o.dropped = 0
		default:
		}
	}
	select {
	case o.lines <- strings.TrimRight(line, "\n"):
	default:
		o.dropped++
	}
}

// drain waits until what is queued is written, but not longer than limit.
func (o *output) drain(limit time.Duration) {
	over := time.NewTimer(limit)
	defer over.Stop()
	written := make(chan struct{})
	select {
	case o.lines <- written:
	case <-over.C:
		return
	}
	select {
	case <-written:
	case <-over.C:
	}
}
