package api

import (
	"context"
	"math"
	"strings"

	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/container"
)

// lineOverhead is what a line costs in a message beyond its text.
const lineOverhead = 32

func (s *phoneServer) Logs(q *phonehostv1.LogsRequest, stream grpc.ServerStreamingServer[phonehostv1.LogsResponse]) error {
	if _, err := s.cfg.Phones.Get(q.GetPhoneId()); err != nil {
		return statusError(err)
	}
	role := container.Guest
	switch q.GetSource() {
	case phonehostv1.LogSource_LOG_SOURCE_UNSPECIFIED, phonehostv1.LogSource_LOG_SOURCE_GUEST:
	case phonehostv1.LogSource_LOG_SOURCE_DISPLAY:
		role = container.Display
	default:
		return statusError(fault.Field("source", "%d is not a source", q.GetSource()))
	}
	opts := container.LogOptions{Follow: q.GetFollow(), TailLines: int(min(q.GetTailLines(), math.MaxInt32))}
	return statusError(s.logs(stream, q.GetPhoneId(), role, opts))
}

// logs reads lines in a goroutine of its own, so that those that are there travel together and new ones at once.
func (s *phoneServer) logs(stream grpc.ServerStreamingServer[phonehostv1.LogsResponse], id string, role container.Role, opts container.LogOptions) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	lines := make(chan *phonehostv1.LogLine, 256)
	var readErr error
	go func() {
		defer close(lines)
		readErr = s.cfg.Guests.ReadLog(ctx, id, role, opts, func(l container.LogLine) error {
			for _, m := range logLines(l) {
				select {
				case lines <- m:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	}()
	err := sendLines(lines, stream.Send)
	cancel()
	for range lines { // the reader ends by its context, and closes the channel
	}
	if err != nil {
		return err
	}
	return readErr
}

// sendLines sends lines until the channel is closed, as many together as there are and fit.
func sendLines(lines <-chan *phonehostv1.LogLine, send func(*phonehostv1.LogsResponse) error) error {
	var carried *phonehostv1.LogLine
	for {
		first := carried
		if carried = nil; first == nil {
			var more bool
			if first, more = <-lines; !more {
				return nil
			}
		}
		m := &phonehostv1.LogsResponse{Lines: []*phonehostv1.LogLine{first}}
		size := len(first.GetText()) + lineOverhead
		for gathering := true; gathering; {
			select {
			case l, more := <-lines:
				if !more {
					gathering = false
					break
				}
				if size += len(l.GetText()) + lineOverhead; size > maxChunk {
					carried, gathering = l, false
					break
				}
				m.Lines = append(m.Lines, l)
			default:
				gathering = false
			}
		}
		if err := send(m); err != nil {
			return err
		}
	}
}

// logLines converts one line, cut where it does not fit a message.
func logLines(l container.LogLine) []*phonehostv1.LogLine {
	text := strings.ToValidUTF8(l.Text, "\uFFFD")
	var out []*phonehostv1.LogLine
	for {
		part := text
		if len(part) > maxChunk-lineOverhead {
			part = strings.ToValidUTF8(text[:maxChunk-lineOverhead-4], "")
		}
		out = append(out, &phonehostv1.LogLine{Time: timestamp(l.Time), Stderr: l.Stream != "stdout", Text: part})
		if text = text[len(part):]; text == "" {
			return out
		}
	}
}
