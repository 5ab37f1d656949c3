package app

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// netTime is how long a connection or an answer may take.
const netTime = 10 * time.Second

// net opens the connection that the intent names. A broadcast closes it again; an activity keeps it until the process ends. Extras:
//
//	url       tcp://HOST:PORT, udp://HOST:PORT or http://HOST[:PORT]/PATH
//	send      text to send
//	expect    bytes to wait for after that
//	timeout   milliseconds, 10000 by default
func (p *process) net(ctx context.Context, i Intent) (string, error) {
	target, err := url.Parse(i.Extras["url"])
	if err != nil {
		return "", err
	}
	limit, expect := netTime, 0
	if text := i.Extras["timeout"]; text != "" {
		ms, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return "", fmt.Errorf("timeout: %w", err)
		}
		limit = time.Duration(ms) * time.Millisecond
	}
	if text := i.Extras["expect"]; text != "" {
		if expect, err = strconv.Atoi(text); err != nil || expect < 0 || expect > 1<<20 {
			return "", fmt.Errorf("expect is %.40q, want 0 to 1048576", text)
		}
	}
	send, address, network := i.Extras["send"], target.Host, target.Scheme
	switch target.Scheme {
	case "tcp", "udp":
	case "http":
		network = "tcp"
		if target.Port() == "" {
			address = net.JoinHostPort(target.Hostname(), "80")
		}
		send = fmt.Sprintf("GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", target.RequestURI(), target.Host)
	default:
		return "", fmt.Errorf("url is %.100q, want tcp://, udp:// or http://", i.Extras["url"])
	}
	dialer := net.Dialer{Timeout: limit}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return "", err
	}
	if i.Kind != "activity" {
		defer conn.Close()
	} else {
		context.AfterFunc(ctx, func() { conn.Close() })
	}
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, send); err != nil {
		return "", err
	}
	switch {
	case target.Scheme == "http":
		return answer(io.LimitReader(conn, 1<<20))
	case expect > 0 && network == "udp":
		b := make([]byte, expect) // one datagram
		n, err := conn.Read(b)
		return strings.TrimSpace(string(b[:n])), err
	case expect > 0:
		return answer(io.LimitReader(conn, int64(expect)))
	}
	return "connected to " + conn.RemoteAddr().String(), conn.SetDeadline(time.Time{})
}

// answer reads what comes and returns its first line, or what there is of it.
func answer(r io.Reader) (string, error) {
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil && len(line) == 0 {
		return "", err
	}
	return strings.TrimSpace(line), nil
}
