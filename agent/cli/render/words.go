package render

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// Bytes writes a size as phonectl reads it: the largest binary unit that leaves at most one decimal, such as "512MiB".
func Bytes(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	text := strconv.FormatFloat(value, 'f', 1, 64)
	return strings.TrimSuffix(text, ".0") + units[unit]
}

// Span writes a duration short: "4ms", "2.9s", "3m", "5h", "12d".
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Span(-d)
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return strings.Replace(fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds()), ".0s", "s", 1)
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}

// Since writes how long ago a time is, without "ago"; empty for an absent time. Times ahead of now count as now: two
// hosts' clocks differ a little.
func Since(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	age := max(0, now.Sub(t.AsTime()))
	if age < time.Second {
		return "0s"
	}
	if age < time.Minute {
		age = age.Truncate(time.Second)
	}
	return Span(age)
}

// Ago writes how long ago a time is: "3m ago", "just now"; empty for an absent time.
func Ago(t *timestamppb.Timestamp, now time.Time) string {
	since := Since(t, now)
	switch since {
	case "":
		return ""
	case "0s":
		return "just now"
	}
	return since + " ago"
}

// Status writes a status as number and word: "2 RUNNING".
func Status(s phonehostv1.PhoneStatus) string {
	return fmt.Sprintf("%d %s", int32(s), word(s.String(), "PHONE_STATUS_"))
}

// Kind writes an operation's kind: "power-on".
func Kind(k phonehostv1.OperationKind) string {
	return hyphened(word(k.String(), "OPERATION_KIND_"))
}

// State writes an operation's state: "running".
func State(s phonehostv1.OperationState) string {
	return hyphened(word(s.String(), "OPERATION_STATE_"))
}

// EventKind writes an event's kind: "guest-booted".
func EventKind(k phonehostv1.EventKind) string {
	return hyphened(word(k.String(), "EVENT_KIND_"))
}

// Severity writes a finding's severity: "OK", "WARNING", "ERROR".
func Severity(s phonehostv1.Severity) string {
	return word(s.String(), "SEVERITY_")
}

// Policy writes a restart policy as the command line names it: "always".
func Policy(p phonehostv1.RestartPolicy) string {
	if p == phonehostv1.RestartPolicy_RESTART_POLICY_UNSPECIFIED {
		p = phonehostv1.RestartPolicy_RESTART_POLICY_ALWAYS
	}
	return hyphened(word(p.String(), "RESTART_POLICY_"))
}

// Freeze writes a reason to freeze as the command line names it: "police".
func Freeze(r phonehostv1.FreezeReason) string {
	return hyphened(word(r.String(), "FREEZE_REASON_"))
}

// Moment writes a time, and how far it is away: "2026-01-02 15:04:05 (in 3h)", "(3h ago)"; empty for an absent time.
func Moment(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	at := t.AsTime()
	distance := Ago(t, now)
	if ahead := at.Sub(now); ahead > 0 {
		distance = "in " + Span(ahead)
	}
	return at.UTC().Format(time.DateTime) + " UTC (" + distance + ")"
}

// Screen writes a display as the command line names it, "720x1280@30/320dpi"; without the dpi when full is not set.
func Screen(d *phonehostv1.DisplaySpec, full bool) string {
	if d == nil {
		return ""
	}
	text := fmt.Sprintf("%dx%d@%d", d.GetWidth(), d.GetHeight(), d.GetMaxFps())
	if full && d.GetDpi() != 0 {
		text += fmt.Sprintf("/%ddpi", d.GetDpi())
	}
	return text
}

// Printable replaces control characters and bytes that are not UTF-8 by visible escapes, so that text from a guest
// cannot steer a terminal. Tabs become spaces.
func Printable(s string) string {
	bad := func(r rune) bool {
		return r == utf8.RuneError || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
	}
	if strings.IndexFunc(s, bad) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '\t':
			b.WriteByte(' ')
		case r == utf8.RuneError:
			if s[i] == 0xef { // the replacement character itself, which is fine to print
				b.WriteRune(r)
			} else {
				fmt.Fprintf(&b, `\x%02x`, s[i])
			}
		case bad(r):
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// pairs writes a map as "a=1 b=2" in order of the names.
func pairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v := m[k]
		if v == "" || strings.ContainsAny(v, " \t\n\"") {
			v = strconv.Quote(v)
		}
		out = append(out, k+"="+v)
	}
	return strings.Join(out, " ")
}

// word takes the prefix off an enum's name; numbers that this client does not know stay numbers.
func word(name, prefix string) string {
	return strings.TrimPrefix(name, prefix)
}

func hyphened(word string) string {
	return strings.ReplaceAll(strings.ToLower(word), "_", "-")
}

// short cuts a digest to the 12 hex digits that people compare.
func short(digest string) string {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok || len(hex) <= 12 {
		return digest
	}
	return algorithm + ":" + hex[:12]
}
