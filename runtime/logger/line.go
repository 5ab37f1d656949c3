package logger

import (
	"bytes"
	"errors"
	"time"
)

// Streams of a log.
const (
	Stdout = "stdout"
	Stderr = "stderr"
	// Remark is the stream of the log writer's own lines.
	Remark = "log"
)

// MaxText is the longest text of one line in bytes; a longer line is cut into parts.
const MaxText = 16 << 10

const timeLayout = "2006-01-02T15:04:05.000000000Z"

// Line is one line of a container's output.
type Line struct {
	// Time is when the log writer read the line's first byte.
	Time time.Time
	// Stream is Stdout, Stderr or Remark.
	Stream string
	// Partial tells that the text goes on in the stream's next Line.
	Partial bool
	// Text is the line without its newline: any bytes that the container printed.
	Text string
}

var errMalformed = errors.New("malformed log line")

// appendLine appends the line as the files hold it, newline included.
func appendLine(dst []byte, at time.Time, stream string, partial bool, text []byte) []byte {
	dst = at.UTC().AppendFormat(dst, timeLayout)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	if partial {
		dst = append(dst, " P "...)
	} else {
		dst = append(dst, " F "...)
	}
	dst = append(dst, text...)
	return append(dst, '\n')
}

// Parse reads one line of a log file, without its newline.
func Parse(raw []byte) (Line, error) {
	if len(raw) < len(timeLayout)+1 || raw[len(timeLayout)] != ' ' {
		return Line{}, errMalformed
	}
	at, err := time.Parse(timeLayout, string(raw[:len(timeLayout)]))
	if err != nil || at.Format(timeLayout) != string(raw[:len(timeLayout)]) { // Parse takes more than Format writes
		return Line{}, errMalformed
	}
	stream, rest, ok := bytes.Cut(raw[len(timeLayout)+1:], []byte{' '})
	if !ok || len(rest) < 2 || rest[1] != ' ' || rest[0] != 'F' && rest[0] != 'P' {
		return Line{}, errMalformed
	}
	l := Line{Time: at, Partial: rest[0] == 'P', Text: string(rest[2:])}
	switch name := string(stream); name {
	case Stdout, Stderr, Remark:
		l.Stream = name
	default:
		return Line{}, errMalformed
	}
	return l, nil
}
