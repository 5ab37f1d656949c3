package tunnel

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// noticeType is the first byte of a notice. Types that are not known are skipped, so that later versions can add some.
type noticeType byte

const (
	// noticeWelcome is the accepting side's first word: the session is established.
	noticeWelcome noticeType = 1
	// noticeRefused is the accepting side's first word instead, followed by the end of the session; the text says why.
	noticeRefused noticeType = 2
	// noticeDrain says that the session will be closed soon: no new streams; what runs has a little time. The text says why.
	noticeDrain noticeType = 3
	// noticeStreamLimit says that a stream was closed because too many were open.
	noticeStreamLimit noticeType = 4
)

// maxNoticeText is the longest text of a notice in bytes.
const maxNoticeText = 1024

// notice is one frame on the first stream of a session: type (1 byte), length of the text (2 bytes, big endian), text (UTF-8).
type notice struct {
	kind noticeType
	text string
}

// encode returns the frame; a text that is too long is cut.
func (n notice) encode() []byte {
	text := n.text
	if len(text) > maxNoticeText {
		text = text[:maxNoticeText]
	}
	text = strings.ToValidUTF8(text, "")
	frame := binary.BigEndian.AppendUint16([]byte{byte(n.kind)}, uint16(len(text)))
	return append(frame, text...)
}

// readNotice reads one frame. Its error is io.EOF at the end of the stream between frames, of class
// errdefs.ErrInvalidArgument for bytes that are no notice.
func readNotice(r io.Reader) (notice, error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return notice{}, err
	}
	size := int(binary.BigEndian.Uint16(head[1:]))
	if head[0] == 0 || size > maxNoticeText {
		return notice{}, fmt.Errorf("notice of type %d and %d bytes: %w", head[0], size, errdefs.ErrInvalidArgument)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(r, text); err != nil {
		return notice{}, fmt.Errorf("notice of type %d: %w", head[0], io.ErrUnexpectedEOF)
	}
	if !utf8.Valid(text) {
		return notice{}, fmt.Errorf("notice of type %d: text is not UTF-8: %w", head[0], errdefs.ErrInvalidArgument)
	}
	return notice{kind: noticeType(head[0]), text: string(text)}, nil
}
