package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

const (
	protocol = "phonehost-control 1"
	hello    = protocol + " hello "
	ready    = protocol + " ready "
	start    = protocol + " start "
	started  = protocol + " started "
	// maxLine bounds the lines of the handshake; bytes without a line's end are dropped beyond it.
	maxLine = 64 << 10
	// helloInterval is how long the host waits for an answer before it repeats its line, which may have been taken for the
	// rest of a session that the guest had not yet seen end.
	helloInterval = time.Second
)

// lineReader finds lines in a stream. It may read beyond a line; after the last line of the handshake nothing follows, for
// the guest waits for the host's first stream, and the host for the guest's last line.
type lineReader struct {
	r    io.Reader
	rest []byte // read and not looked at
	line []byte // of the line that has not ended
}

// next returns the next line that begins with prefix, without it. Other lines are dropped.
func (l *lineReader) next(prefix string) (string, error) {
	var buf [4096]byte
	for {
		for len(l.rest) > 0 {
			end := bytes.IndexByte(l.rest, '\n')
			if end < 0 {
				l.keep(l.rest)
				l.rest = nil
				break
			}
			l.keep(l.rest[:end])
			line := string(l.line)
			l.rest, l.line = l.rest[end+1:], nil
			if text, ok := strings.CutPrefix(line, prefix); ok {
				return text, nil
			}
		}
		n, err := l.r.Read(buf[:])
		l.rest = append([]byte(nil), buf[:n]...)
		if n == 0 && err != nil {
			return "", err
		}
	}
}

// keep appends to the line; a line that became too long is dropped with all of it, for it is none of ours.
func (l *lineReader) keep(p []byte) {
	if len(l.line)+len(p) > maxLine {
		l.line = append(l.line[:0], 0)
		return
	}
	l.line = append(l.line, p...)
}

// greet carries out the host's side of the handshake on conn.
func greet(ctx context.Context, conn net.Conn) (Guest, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := greetLines(ctx, conn, rand.Text())
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if ctx.Err() != nil {
		return Guest{}, fmt.Errorf("the guest did not answer on port %s: %w", Port, context.Cause(ctx))
	}
	if err != nil {
		return Guest{}, fmt.Errorf("speak to the guest on port %s: %v: %w", Port, err, errdefs.ErrUnavailable)
	}
	var guest Guest
	if err := json.Unmarshal([]byte(text), &guest); err != nil {
		return Guest{}, fmt.Errorf("decode the guest's answer %q: %v: %w", text, err, errdefs.ErrUnavailable)
	}
	return guest, nil
}

// greetLines returns what the guest answered. The caller unblocks conn when ctx ends.
func greetLines(ctx context.Context, conn net.Conn, nonce string) (string, error) {
	lines := lineReader{r: conn}
	var text string
	for {
		if _, err := fmt.Fprintf(conn, "\n%s%s\n", hello, nonce); err != nil {
			return "", err
		}
		conn.SetReadDeadline(time.Now().Add(helloInterval))
		if ctx.Err() != nil {
			return "", ctx.Err() // the deadline just set may have undone the one that ctx's end had set
		}
		var err error
		if text, err = lines.next(ready + nonce + " "); err == nil {
			break
		} else if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return "", err
		}
	}
	conn.SetReadDeadline(time.Time{})
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if _, err := fmt.Fprintf(conn, "%s%s\n", start, nonce); err != nil {
		return "", err
	}
	_, err := lines.next(started + nonce)
	return text, err
}

// answer carries out the guest's side of the handshake.
func answer(conn io.ReadWriter, guest Guest) error {
	text, err := json.Marshal(guest)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	lines := lineReader{r: conn}
	greeted := ""
	for {
		line, err := lines.next(protocol)
		if err != nil {
			return fmt.Errorf("wait for the host on port %s: %w", Port, err)
		}
		line = protocol + line
		if nonce, ok := strings.CutPrefix(line, hello); ok {
			greeted = nonce
			_, err = fmt.Fprintf(conn, "\n%s%s %s\n", ready, nonce, text)
		} else if nonce, ok := strings.CutPrefix(line, start); ok && nonce == greeted {
			_, err = fmt.Fprintf(conn, "%s%s\n", started, nonce)
			if err == nil {
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("answer the host on port %s: %w", Port, err)
		}
	}
}
