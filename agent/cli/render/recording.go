package render

import (
	"fmt"
	"io"
)

// Recording is what `phonectl record` measured. It is printed as JSON by these names; fields are only ever added.
type Recording struct {
	Phone           string  `json:"phone"`
	File            string  `json:"file"`
	Format          string  `json:"format"` // "h264" or "mp4"
	Encoder         string  `json:"encoder"`
	Width           uint32  `json:"width"`
	Height          uint32  `json:"height"`
	Frames          uint64  `json:"frames"`
	KeyFrames       uint64  `json:"keyFrames"`
	Bytes           uint64  `json:"bytes"`   // of video, without the container
	Seconds         float64 `json:"seconds"` // from the first frame to the end of the last
	FramesPerSecond float64 `json:"framesPerSecond"`
	BitrateKbps     float64 `json:"bitrateKbps"`
	DisplayLosses   int     `json:"displayLosses"`
	// Milliseconds, over the frames that were committed while recording; absent when there were none.
	CommitToEncoded               *Quantiles `json:"commitToEncodedMs,omitempty"`
	Encoding                      *Quantiles `json:"encodingMs,omitempty"`
	CommitToViewer                *Quantiles `json:"commitToViewerMs,omitempty"`
	CommitToViewerWithoutEncoding *Quantiles `json:"commitToViewerWithoutEncodingMs,omitempty"`
}

// Quantiles sums up a series.
type Quantiles struct {
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
	Samples int     `json:"samples"`
}

// Recorded writes a recording's figures.
func Recorded(w io.Writer, r Recording) error {
	var f fields
	f.add("file", fmt.Sprintf("%s (%s, %dx%d, %s)", r.File, r.Format, r.Width, r.Height, r.Encoder))
	f.add("frames", fmt.Sprintf("%d in %.2fs, %.1f a second, %d key frames", r.Frames, r.Seconds, r.FramesPerSecond, r.KeyFrames))
	f.add("size", fmt.Sprintf("%s, %.0f kbit/s", Bytes(r.Bytes), r.BitrateKbps))
	f.add("commit to encoded", r.CommitToEncoded.text())
	f.add("commit to viewer", r.CommitToViewer.text())
	if r.DisplayLosses > 0 {
		f.add("display lost", fmt.Sprintf("%d times", r.DisplayLosses))
	}
	if q := r.CommitToViewer; q != nil && q.P50 < 0 {
		f.add("note", "frames arrive before they were drawn: the clocks of this machine and of the host differ")
	}
	return f.write(w)
}

func (q *Quantiles) text() string {
	if q == nil {
		return ""
	}
	return fmt.Sprintf("p50 %.1fms, p99 %.1fms, max %.1fms", q.P50, q.P99, q.Max)
}
