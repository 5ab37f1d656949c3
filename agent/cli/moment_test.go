package cli

import (
	"strings"
	"testing"
	"time"
)

func TestMoments(t *testing.T) {
	now := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	local := func(y int, m time.Month, d, h, min, s int) time.Time {
		return time.Date(y, m, d, h, min, s, 0, time.Local)
	}
	for _, tt := range []struct {
		text string
		want time.Time // zero for never
		bad  bool
	}{
		{text: "24h", want: now.Add(24 * time.Hour)},
		{text: "1h30m", want: now.Add(90 * time.Minute)},
		{text: "30d", want: now.AddDate(0, 0, 30)},
		{text: "2w", want: now.AddDate(0, 0, 14)},
		{text: "never"},
		{text: "2026-02-01T12:00:00Z", want: time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)},
		{text: "2026-02-01T12:00:00+02:00", want: time.Date(2026, 2, 1, 10, 0, 0, 0, time.UTC)},
		{text: "2026-02-01", want: local(2026, 2, 1, 0, 0, 0)},
		{text: "2026-02-01 12:30", want: local(2026, 2, 1, 12, 30, 0)},
		{text: "2026-02-01_12:30:15", want: local(2026, 2, 1, 12, 30, 15)},
		{text: "", bad: true}, {text: "soon", bad: true}, {text: "0s", bad: true}, {text: "-1h", bad: true}, {text: "0d", bad: true},
		{text: "999999d", bad: true}, {text: "2026-13-01", bad: true}, {text: "24", bad: true}, {text: "0", bad: true},
	} {
		m, err := parseMoment(tt.text)
		if tt.bad {
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%q: %+v, %v", tt.text, m, err)
			}
			continue
		}
		got := m.proto(now)
		if err != nil || (got == nil) != tt.want.IsZero() || got != nil && !got.AsTime().Equal(tt.want) {
			t.Errorf("%q is %v, %v; want %v", tt.text, got.AsTime(), err, tt.want)
		}
	}
	if (*moment)(nil).proto(now) != nil {
		t.Error("a moment that was not given is a time")
	}
}
