package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// moment is a time on the command line: from now, "24h", "30d", "2w"; a time, "2026-02-01T12:00:00Z", "2026-02-01 12:00", "2026-02-01"
// (of this machine's time zone where it names none); or "never".
type moment struct {
	text  string
	after time.Duration // from now
	at    time.Time     // zero for never, and where after is set
}

var afterPattern = regexp.MustCompile(`^([0-9]{1,5})(d|w)$`)

// Decode makes moment a kong value.
func (m *moment) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("time", &text); err != nil {
		return err
	}
	parsed, err := parseMoment(text)
	*m = parsed
	return err
}

// parseMoment reads a moment.
func parseMoment(text string) (moment, error) {
	m := moment{text: text}
	if text == "never" {
		return m, nil
	}
	if parts := afterPattern.FindStringSubmatch(text); parts != nil {
		n, err := strconv.Atoi(parts[1])
		if err != nil || n == 0 {
			return m, fmt.Errorf("%q must be more than nothing", text)
		}
		m.after = time.Duration(n) * 24 * time.Hour
		if parts[2] == "w" {
			m.after *= 7
		}
		return m, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		if d <= 0 {
			return m, fmt.Errorf("%q must be more than nothing", text)
		}
		m.after = d
		return m, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, strings.Replace(text, "_", " ", 1), time.Local); err == nil {
			m.at = at
			return m, nil
		}
	}
	return m, fmt.Errorf("%q is not a time: give a span from now such as 24h, 30d or 2w, a time such as 2026-02-01T12:00:00Z or 2026-02-01, or never", text)
}

// proto returns the moment as the API has it; never is absent, and so is one that was not given.
func (m *moment) proto(now time.Time) *timestamppb.Timestamp {
	switch {
	case m == nil || m.after == 0 && m.at.IsZero():
		return nil
	case m.after > 0:
		return timestamppb.New(now.Add(m.after))
	}
	return timestamppb.New(m.at)
}
