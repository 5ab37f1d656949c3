package h264

// Quality is how good an encoder shall make a frame, and how much of the link the frame may take.
type Quality int

// Qualities of a frame.
const (
	// Normal is for frames in motion: bounded by what the link carries in one frame time.
	Normal Quality = iota
	// Slack is for a frame in which nothing moves: it is no larger than a Normal one, but an encoder that limits frames by a
	// buffer fills the buffer, so that a Fine frame after it may be large.
	Slack
	// Fine is for a frame in which nothing moves and that shall look good: it may take several frame times of the link.
	Fine
)
