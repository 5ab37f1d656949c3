package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/phonehost/phonehost/agent/cli/render"
	"github.com/phonehost/phonehost/agent/mp4"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type recordCmd struct {
	ID       string        `arg:"" help:"The phone."`
	File     string        `short:"f" required:"" placeholder:"FILE" help:"out.mp4, or out.h264 for the bare stream (Annex B); - writes the bare stream to the standard output."`
	Duration time.Duration `short:"d" placeholder:"DURATION" help:"How long to record, such as 5s. Default: until Ctrl-C."`
	Frames   uint64        `placeholder:"N" help:"End after N frames."`
	Bitrate  uint32        `placeholder:"KBPS" help:"Rate in kbit/s, 100..10000, shared by all viewers of the phone. Default: 4000."`
	FPS      uint32        `name:"fps" placeholder:"N" help:"Highest frame rate. Default: the display's."`
}

// Help is the detailed help.
func (c *recordCmd) Help() string {
	return "A still screen sends nothing, so few frames are no fault. Latencies compare the host's clock with this " +
		"machine's: across machines they are as good as the clocks agree."
}

// errRecorded ends a recording that is complete.
var errRecorded = errors.New("recorded")

func (c *recordCmd) Run(ctx context.Context, a *app) error {
	if err := refuseTerminal(a, c.File); err != nil {
		return err
	}
	if _, err := c.format(); err != nil {
		return err
	}
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	attach, cancel := context.WithCancelCause(ctx)
	defer cancel(errRecorded)
	stream, attached, err := c.attach(attach, phonehostv1.NewStreamServiceClient(conn.Media()))
	if err != nil {
		return about(c.ID, err)
	}
	out, err := c.create(a)
	if err != nil {
		return err
	}
	r := &recorder{app: a, stream: stream, out: out, meter: newMeter(attached)}
	if c.Duration > 0 {
		timer := time.AfterFunc(c.Duration, func() { cancel(errRecorded) })
		defer timer.Stop()
	}
	a.sayf("recording %s: %dx%d, up to %d frames/s, %s", c.ID, r.meter.width, r.meter.height, r.meter.maxFPS, r.meter.encoder)
	err = r.run(c.Frames)
	if errors.Is(context.Cause(attach), errRecorded) || interrupted(ctx, err) {
		err = nil // ended as it was meant to
	}
	closed := c.close(a, r)
	if err != nil {
		return about(c.ID, err)
	}
	return closed
}

// attach makes this a viewer.
func (c *recordCmd) attach(ctx context.Context, streams phonehostv1.StreamServiceClient) (phonehostv1.StreamService_AttachClient, *phonehostv1.Attached, error) {
	stream, err := streams.Attach(ctx)
	if err != nil {
		return nil, nil, err
	}
	// A refused call comes out of Recv, with its reason.
	stream.Send(&phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Start{Start: &phonehostv1.AttachStart{ //nolint:errcheck // see above
		PhoneId: c.ID, BitrateKbps: c.Bitrate, MaxFps: c.FPS,
	}}})
	answer, err := stream.Recv()
	return stream, answer.GetAttached(), err
}

// close finishes the file and prints what was recorded.
func (c *recordCmd) close(a *app, r *recorder) error {
	err := r.out.close(r.meter.end(time.Now()))
	if r.meter.frames == 0 {
		return errors.Join(c.nothing(), c.remove())
	}
	if err != nil {
		return fmt.Errorf("finish %s: %w", c.File, err)
	}
	summary := r.meter.summary()
	summary.Phone, summary.File = c.ID, c.File
	summary.Format, _ = c.format()
	w := a.stdout
	if c.File == "-" {
		w = a.stderr // the video has the standard output
	}
	if a.json() {
		return render.Value(w, summary)
	}
	return render.Recorded(w, summary)
}

// nothing is the error of a recording without a frame.
func (c *recordCmd) nothing() error {
	return exitError{code: exitFailed, text: fmt.Sprintf(
		"no frame came: %s has drawn nothing yet; see what it does: `phonectl logs %s`", c.ID, c.ID)}
}

// remove removes a file without a frame.
func (c *recordCmd) remove() error {
	if c.File == "-" {
		return nil
	}
	return os.Remove(c.File)
}

// format says what the file's name asks for.
func (c *recordCmd) format() (string, error) {
	switch strings.ToLower(filepath.Ext(c.File)) {
	case ".mp4":
		return "mp4", nil
	case ".h264", ".264":
		return "h264", nil
	}
	if c.File == "-" {
		return "h264", nil
	}
	return "", usagef("%s: the name must end with .mp4 or .h264", c.File)
}

func (c *recordCmd) create(a *app) (container, error) {
	if c.File == "-" {
		return &bareStream{w: a.stdout}, nil
	}
	f, err := os.Create(c.File)
	if err != nil {
		return nil, err
	}
	if format, _ := c.format(); format == "h264" {
		return &bareStream{w: f, closer: f}, nil
	}
	w, err := mp4.NewWriter(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &mp4File{writer: w, file: f}, nil
}

// recorder takes the packets of one Attach call.
type recorder struct {
	app    *app
	stream phonehostv1.StreamService_AttachClient
	out    container
	meter  *meter
}

// run takes packets until the call ends, or frames of them have come when frames is not 0.
func (r *recorder) run(frames uint64) error {
	for {
		answer, err := r.stream.Recv()
		if err != nil {
			return ended(err)
		}
		switch m := answer.GetMessage().(type) {
		case *phonehostv1.AttachResponse_Packet:
			arrived := time.Now()
			// A lost call comes out of Recv, with its reason.
			r.stream.Send(&phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Ack{ //nolint:errcheck // see above
				Ack: &phonehostv1.Ack{Seq: m.Packet.GetSeq()},
			}})
			if err := r.out.write(m.Packet.GetData(), r.meter.packet(m.Packet, arrived)); err != nil {
				return err
			}
			if frames > 0 && r.meter.frames >= frames {
				return nil
			}
		case *phonehostv1.AttachResponse_DisplayLost:
			r.meter.lost()
			r.app.sayf("the display is lost: %s; waiting for it to come back", render.Printable(m.DisplayLost.GetReason()))
		case *phonehostv1.AttachResponse_DisplayBack:
			r.app.sayf("the display is back: %dx%d", m.DisplayBack.GetWidth(), m.DisplayBack.GetHeight())
		}
	}
}

// container is a file that takes access units.
type container interface {
	write(unit []byte, at time.Duration) error
	close(end time.Duration) error
}

// bareStream writes access units as they are.
type bareStream struct {
	w      io.Writer
	closer io.Closer // nil for the standard output
}

func (s *bareStream) write(unit []byte, _ time.Duration) error {
	_, err := s.w.Write(unit)
	return err
}

func (s *bareStream) close(time.Duration) error {
	if s.closer == nil {
		return nil
	}
	return s.closer.Close()
}

// mp4File writes access units into an MP4 file.
type mp4File struct {
	writer *mp4.Writer
	file   *os.File
}

func (f *mp4File) write(unit []byte, at time.Duration) error { return f.writer.Write(unit, at) }

func (f *mp4File) close(end time.Duration) error {
	return errors.Join(f.writer.Close(end), f.file.Close())
}
