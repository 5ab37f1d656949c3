package tunnel

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestNotice(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", maxNoticeText)
	for _, tt := range []struct {
		name string
		in   notice
		want string
	}{
		{"empty", notice{noticeWelcome, ""}, ""},
		{"text", notice{noticeDrain, "shutting down"}, "shutting down"},
		{"too long", notice{noticeRefused, long}, long[:maxNoticeText]},
		{"cut within a character", notice{noticeRefused, "x" + long}, "x" + long[:maxNoticeText-2]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := readNotice(bytes.NewReader(tt.in.encode()))
			if err != nil || got.kind != tt.in.kind || got.text != tt.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	for name, data := range map[string]string{
		"type 0":    "\x00\x00\x00",
		"too long":  "\x01\xff\xff",
		"not UTF-8": "\x01\x00\x01\xff",
	} {
		if _, err := readNotice(strings.NewReader(data)); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readNotice(strings.NewReader("")); err != io.EOF {
		t.Errorf("nothing: %v", err)
	}
	if _, err := readNotice(strings.NewReader("\x01\x00\x02x")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a notice: %v", err)
	}
}

func FuzzReadNotice(f *testing.F) {
	f.Add(notice{noticeWelcome, ""}.encode())
	f.Add(notice{noticeDrain, "why"}.encode())
	f.Add([]byte{9, 0, 200, 'x'})
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := readNotice(bytes.NewReader(data))
		if err != nil {
			return
		}
		if got := n.encode(); !bytes.HasPrefix(data, got) {
			t.Fatalf("%x was read as %+v, which is %x", data, n, got)
		}
	})
}
