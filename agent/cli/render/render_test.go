package render

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/phonehost/phonehost/agent/hub"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

var now = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }

func TestWords(t *testing.T) {
	tests := []struct{ name, got, want string }{
		{"no bytes", Bytes(0), "0B"},
		{"bytes", Bytes(1023), "1023B"},
		{"KiB", Bytes(1024), "1KiB"},
		{"parts", Bytes(1536 << 20), "1.5GiB"},
		{"the most there is", Bytes(1<<64 - 1), "16384PiB"},
		{"milliseconds", Span(4 * time.Millisecond), "4ms"},
		{"seconds with a part", Span(2950 * time.Millisecond), "2.9s"},
		{"whole seconds", Span(3 * time.Second), "3s"},
		{"below a minute", Span(59900 * time.Millisecond), "59s"},
		{"minutes", Span(119 * time.Minute), "119m"},
		{"hours", Span(47 * time.Hour), "47h"},
		{"days", Span(48 * time.Hour), "2d"},
		{"backwards", Span(-time.Minute), "-1m"},
		{"absent time", Ago(nil, now), ""},
		{"now", Ago(ago(400*time.Millisecond), now), "just now"},
		{"ahead of now", Ago(ago(-time.Hour), now), "just now"},
		{"seconds ago", Ago(ago(2900*time.Millisecond), now), "2s ago"},
		{"minutes ago", Ago(ago(3*time.Minute), now), "3m ago"},
		{"status", Status(phonehostv1.PhoneStatus_PHONE_STATUS_POWERED_OFF), "5 POWERED_OFF"},
		{"status of a newer agent", Status(17), "17 17"},
		{"kind", Kind(phonehostv1.OperationKind_OPERATION_KIND_POWER_ON), "power-on"},
		{"default policy", Policy(phonehostv1.RestartPolicy_RESTART_POLICY_UNSPECIFIED), "always"},
		{"policy", Policy(phonehostv1.RestartPolicy_RESTART_POLICY_ON_GUEST_REBOOT), "on-guest-reboot"},
		{"no display", Screen(nil, true), ""},
		{"map", pairs(map[string]string{"b": "two words", "a": "1", "c": ""}), `a=1 b="two words" c=""`},
		{"digest", short("sha256:0123456789abcdef"), "sha256:0123456789ab"},
		{"no digest", short("abc"), "abc"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"plain", "Grüße, 世界", "Grüße, 世界"},
		{"escape sequence", "a\x1b[31mb", `a\x1b[31mb`},
		{"tab and line feed", "a\tb\nc", `a b\nc`},
		{"bytes that are not UTF-8", "a\xff\xc3(", `a\xff\xc3(`},
		{"the replacement character", "a\ufffdb", "a\ufffdb"},
		{"text that turns around", "a\u202eb", `a\u202eb`},
		{"eight-bit control", "a\u009bb", `a\u009bb`},
		{"a quote", "it's", "it's"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Printable(tt.text); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31mb\xff")
	f.Fuzz(func(t *testing.T, text string) {
		if got := Printable(text); strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || (r >= 0x7f && r < 0xa0) }) {
			t.Errorf("%q becomes %q", text, got)
		}
	})
}

// printed is what fn writes.
func printed(t *testing.T, fn func(w io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := fn(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTableIsAlignedByCharacters(t *testing.T) {
	got := printed(t, func(w io.Writer) error {
		table := NewTable("NAME", "WIDE   ", "LAST")
		table.Row("é", "1", "x")
		table.Row("four", "", "")
		if err := table.Write(w); err != nil {
			return err
		}
		return table.Append(w, "longer than before", "2", "y")
	})
	want := "NAME  WIDE     LAST\n" +
		"é     1        x\n" +
		"four  -        -\n" +
		"longer than before  2        y\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// troubled is a phone with everything that can be wrong with one.
func troubled() *phonehostv1.Phone {
	return &phonehostv1.Phone{
		Spec: &phonehostv1.PhoneSpec{
			Id: "cp-1", Image: "phonehost.dev/testphone:latest", Profile: "testphone", Vcpus: 0.5, CpuWeight: 200, MemoryBytes: 768 << 20,
			DataBytes: 4 << 30, Display: &phonehostv1.DisplaySpec{Width: 720, Height: 1280, Dpi: 320, MaxFps: 30},
			Labels: map[string]string{"user": "\x1b[2J"},
		},
		Status: phonehostv1.PhoneStatus_PHONE_STATUS_STOPPED, Reason: "5 crashes in 10 minutes", Viewers: 2, CreateTime: ago(72 * time.Hour),
		Hold: &phonehostv1.Hold{Reason: "CRASH_LOOP", Since: ago(time.Minute)},
		LastFailure: &phonehostv1.Failure{
			OperationKind: phonehostv1.OperationKind_OPERATION_KIND_POWER_ON, Reason: "BOOT_TIMEOUT", Message: "last seen: init", Time: ago(90 * time.Minute),
		},
		OperationId: "op-7", BootGeneration: 9, DataGeneration: 2, ImageDigest: "sha256:abc", LastBootDuration: durationpb.New(2900 * time.Millisecond),
		Display: &phonehostv1.DisplayState{Connected: false},
	}
}

func TestPhoneInTrouble(t *testing.T) {
	got := printed(t, func(w io.Writer) error { return Phone(w, troubled(), now) })
	want := `id              cp-1
status          1 STOPPED
reason          5 crashes in 10 minutes
operation       op-7
held            CRASH_LOOP, 1m ago: ` + "`phonectl on cp-1`" + ` tries again
last failure    power-on, 90m ago: BOOT_TIMEOUT: last seen: init
image           phonehost.dev/testphone:latest
image digest    sha256:abc
profile         testphone
vcpus           0.5, weight 200
memory          768MiB
data            4GiB, generation 2
display         720x1280@30/320dpi
screen          display lost
viewers         2
restart policy  always
labels          user=\x1b[2J
created         3d ago
last boot took  2.9s
boots           9
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPhoneThatIsFrozen shows what an operator can do about each reason.
func TestPhoneThatIsFrozen(t *testing.T) {
	p := &phonehostv1.Phone{
		Spec: &phonehostv1.PhoneSpec{Id: "cp-1", Lease: &phonehostv1.Lease{ExpiresAt: ago(time.Hour * 3)}},
		Freezes: []*phonehostv1.Freeze{
			{Reason: phonehostv1.FreezeReason_FREEZE_REASON_EXPIRED, Since: ago(3 * time.Hour), RequestedBy: "lease"},
			{Reason: phonehostv1.FreezeReason_FREEZE_REASON_POLICE, Since: ago(time.Minute), RequestedBy: "client/fleet"},
		},
		PendingRestart: []string{"display", "memory_bytes"}, DataAndroidVersion: "13",
		LastFailure: &phonehostv1.Failure{Reason: "OUT_OF_MEMORY", Message: "init ended", Time: ago(time.Minute)},
	}
	got := printed(t, func(w io.Writer) error { return Phone(w, p, now) })
	for _, want := range []string{
		"frozen           expired, 3h ago, by lease: `phonectl renew cp-1 --expires 24h`\n",
		"frozen           police, 1m ago, by client/fleet: `phonectl unfreeze cp-1 --reason police`\n",
		"lease            expired 2026-01-02 12:04:05 UTC (3h ago)\n",
		"at next start    display, memory_bytes: `phonectl restart cp-1`\n",
		"last failure     1m ago: OUT_OF_MEMORY: init ended\n",
		"data used with Android 13\n",
	} {
		if !strings.Contains(strings.Join(strings.Fields(got), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("%s\ndoes not have the line %q", got, want)
		}
	}
}

func TestNotes(t *testing.T) {
	tests := []struct {
		name string
		edit func(*phonehostv1.Phone)
		want string
	}{
		{"hold with a reason", func(*phonehostv1.Phone) {}, "CRASH_LOOP: 5 crashes in 10 minutes"},
		{"hold whose reason the agent named", func(p *phonehostv1.Phone) { p.Reason = "CRASH_LOOP: " + p.Reason }, "CRASH_LOOP: 5 crashes in 10 minutes"},
		{"hold alone", func(p *phonehostv1.Phone) { p.Reason = "" }, "CRASH_LOOP"},
		{"reason", func(p *phonehostv1.Phone) { p.Hold = nil }, "5 crashes in 10 minutes"},
		{"last failure", func(p *phonehostv1.Phone) { p.Hold, p.Reason = nil, "" }, "power-on: BOOT_TIMEOUT: last seen: init"},
		{"want of memory, of no operation", func(p *phonehostv1.Phone) {
			p.Hold, p.Reason, p.LastFailure = nil, "", &phonehostv1.Failure{Reason: "OUT_OF_MEMORY", Message: "init ended"}
		}, "OUT_OF_MEMORY: init ended"},
		{"nothing", func(p *phonehostv1.Phone) { p.Hold, p.Reason, p.LastFailure = nil, "", nil }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := troubled()
			tt.edit(p)
			if got := note(p); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestHostWithoutContainerd(t *testing.T) {
	got := printed(t, func(w io.Writer) error {
		return Host(w, &phonehostv1.Host{Name: "rack-1", Version: "1.0.0", PhonesByStatus: []uint32{3, 0, 2}}, now)
	})
	for _, want := range []string{"containerd  does not answer\n", "phones      5 (0 UNKNOWN: 3, 2 RUNNING: 2)\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "WARNING") {
		t.Errorf("a table of no warnings:\n%s", got)
	}
}

func TestHostTellsOfBinder(t *testing.T) {
	for want, b := range map[string]*phonehostv1.Binder{
		"not known":                 nil, // an older agent's
		"none":                      {Kind: phonehostv1.BinderKind_BINDER_KIND_NONE},
		"binderfs":                  {Kind: phonehostv1.BinderKind_BINDER_KIND_BINDERFS},
		"pool, 0 of 2 triples free": {Kind: phonehostv1.BinderKind_BINDER_KIND_POOL, Triples: 2},
	} {
		got := printed(t, func(w io.Writer) error { return Host(w, &phonehostv1.Host{Binder: b}, now) })
		if !strings.Contains(got, "\nbinder      "+want+"\n") {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestOperationOfManyPhonesIsShort(t *testing.T) {
	op := &phonehostv1.Operation{Id: "op-1", Kind: phonehostv1.OperationKind_OPERATION_KIND_RESET, State: phonehostv1.OperationState_OPERATION_STATE_ABORTED}
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		op.Results = append(op.Results, &phonehostv1.OperationResult{PhoneId: id})
	}
	got := printed(t, func(w io.Writer) error { return Operations(w, []*phonehostv1.Operation{op}, now) })
	want := "ID    KIND   STATE    PHONES            BY  CREATED  TOOK\n" +
		"op-1  reset  aborted  a,b,c and 2 more  -   -        -\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAgents(t *testing.T) {
	got := printed(t, func(w io.Writer) error {
		return Agents(w, []hub.Agent{
			{Name: "rack-1", Sessions: []hub.Session{
				{Kind: "control", Remote: "192.0.2.1:4000", Since: now.Add(-time.Hour)}, {Kind: "media", Remote: "192.0.2.1:4001", Since: now},
			}},
			{Name: "rack-2"},
		}, now)
	})
	want := "NAME    SESSIONS       FROM            SINCE\n" +
		"rack-1  control,media  192.0.2.1:4000  60m ago\n" +
		"rack-2  -              -               -\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRecordingWhoseClocksDiffer(t *testing.T) {
	got := printed(t, func(w io.Writer) error {
		return Recorded(w, Recording{
			File: "out.mp4", Format: "mp4", Encoder: "libx264", Width: 720, Height: 1280, Frames: 150, KeyFrames: 2, Bytes: 2 << 20, Seconds: 5,
			FramesPerSecond: 30, BitrateKbps: 3355, CommitToViewer: &Quantiles{P50: -12.25, P99: 3, Max: 4, Samples: 149}, DisplayLosses: 1,
		})
	})
	want := `file              out.mp4 (mp4, 720x1280, libx264)
frames            150 in 5.00s, 30.0 a second, 2 key frames
size              2MiB, 3355 kbit/s
commit to viewer  p50 -12.2ms, p99 3.0ms, max 4.0ms
display lost      1 times
note              frames arrive before they were drawn: the clocks of this machine and of the host differ
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestJSONIsStableAndComplete(t *testing.T) {
	op := &phonehostv1.Operation{Id: "op-1", CreateTime: timestamppb.New(now)}
	want := `{"id":"op-1","kind":"OPERATION_KIND_UNSPECIFIED","requestId":"","requestedBy":"","state":"OPERATION_STATE_UNSPECIFIED",` +
		`"results":[],"createTime":"2026-01-02T15:04:05Z"}` + "\n"
	if diff := cmp.Diff(want, printed(t, func(w io.Writer) error { return JSONLine(w, op) })); diff != "" {
		t.Errorf("one line (-want +got):\n%s", diff)
	}
	if got := printed(t, func(w io.Writer) error { return JSON(w, op) }); !strings.HasPrefix(got, "{\n  \"id\": \"op-1\",\n") || !strings.HasSuffix(got, "}\n") {
		t.Errorf("indented: %q", got)
	}
	if _, err := IndentJSON(`{"a":`); err == nil {
		t.Error("half a spec was indented")
	}
}
