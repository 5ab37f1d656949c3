// Package logd is the record that Android programs send to the log socket, one per datagram:
//
//	id uint8 | thread uint16 | seconds uint32 | nanoseconds uint32 | priority uint8 | tag, zero byte | message, zero byte
//
// all numbers little endian. testphone's init prints the records; its log command sends them.
package logd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// SocketPath is where init takes records.
	SocketPath = "/dev/socket/logdw"
	// MaxRecord is the greatest length of a record in bytes.
	MaxRecord = 4096

	headerSize = 11
	mainBuffer = 0
	letters    = "??VDIWEF"
)

// Record is one message.
type Record struct {
	// Thread is the id of the thread that logged.
	Thread uint16
	// Time of the message, to the nanosecond.
	Time time.Time
	// Priority is one of the letters V, D, I, W, E, F.
	Priority byte
	// Tag and Message are text without zero bytes. Message may have several lines.
	Tag, Message string
}

// Lines returns the record as logcat's brief format prints it, one string per line of the message.
func (r Record) Lines() []string {
	prefix := fmt.Sprintf("%c/%s(%5d): ", r.Priority, r.Tag, r.Thread)
	lines := strings.Split(strings.TrimRight(r.Message, "\n"), "\n")
	for i := range lines {
		lines[i] = prefix + lines[i]
	}
	return lines
}

// Append appends the record's bytes to b. What exceeds MaxRecord is cut from the message. Error: errdefs.ErrInvalidArgument for a
// priority that is none, or a tag that leaves no room.
func (r Record) Append(b []byte) ([]byte, error) {
	priority := strings.IndexByte(letters, r.Priority)
	room := MaxRecord - headerSize - 1 - len(r.Tag) - 2
	if priority < 2 || room < 0 {
		return b, fmt.Errorf("log record: priority %q, tag of %d bytes: %w", r.Priority, len(r.Tag), errdefs.ErrInvalidArgument)
	}
	b = append(b, mainBuffer)
	b = binary.LittleEndian.AppendUint16(b, r.Thread)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Time.Unix()))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Time.Nanosecond()))
	b = append(b, byte(priority))
	b = append(append(b, r.Tag...), 0)
	return append(append(b, r.Message[:min(len(r.Message), room)]...), 0), nil
}

// Parse reads a record. Error: errdefs.ErrInvalidArgument.
func Parse(b []byte) (Record, error) {
	if len(b) < headerSize+1 {
		return Record{}, fmt.Errorf("log record of %d bytes: %w", len(b), errdefs.ErrInvalidArgument)
	}
	priority := int(b[headerSize])
	tag, message, ok := bytes.Cut(b[headerSize+1:], []byte{0})
	if priority < 2 || priority >= len(letters) || !ok {
		return Record{}, fmt.Errorf("log record with priority %d: %w", priority, errdefs.ErrInvalidArgument)
	}
	message, _, _ = bytes.Cut(message, []byte{0})
	return Record{
		Thread:   binary.LittleEndian.Uint16(b[1:]),
		Time:     time.Unix(int64(binary.LittleEndian.Uint32(b[3:])), int64(binary.LittleEndian.Uint32(b[7:]))),
		Priority: letters[priority],
		Tag:      string(tag),
		Message:  string(message),
	}, nil
}

// Send sends a record to a log socket, empty for SocketPath. It waits while the socket is full.
func Send(socket string, r Record) error {
	if socket == "" {
		socket = SocketPath
	}
	b, err := r.Append(nil)
	if err != nil {
		return err
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}
