package datapath

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// layoutH is layout.h.
func layoutH(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("bpf/layout.h")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// enum returns the names and numbers of an enum of layout.h.
func enum(t *testing.T, name string) map[string]uint8 {
	t.Helper()
	body := regexp.MustCompile(`(?s)enum ` + name + ` \{(.*?)\};`).FindStringSubmatch(layoutH(t))
	if body == nil {
		t.Fatalf("layout.h has no enum %s", name)
	}
	all := map[string]uint8{}
	for _, m := range regexp.MustCompile(`([A-Z0-9_]+) = (\d+)`).FindAllStringSubmatch(body[1], -1) {
		n, err := strconv.ParseUint(m[2], 10, 8)
		if err != nil {
			t.Fatal(err)
		}
		all[m[1]] = uint8(n)
	}
	return all
}

func TestNamesAreTheHeaders(t *testing.T) {
	for _, test := range []struct {
		enum, prefix string
		names        []string
		text         func(uint8) string
	}{
		{"reason", "REASON_", reasons[:], func(n uint8) string { return Reason(n).String() }},
		{"protected_class", "PROTECTED_", classes[:], func(n uint8) string { return Class(n).String() }},
		{"flow_state", "FLOW_", states[:], func(n uint8) string { return State(n).String() }},
	} {
		values := enum(t, test.enum)
		if len(values) != len(test.names) {
			t.Errorf("enum %s has %d values, Go has %d names", test.enum, len(values), len(test.names))
		}
		for name, n := range values {
			want := strings.TrimPrefix(name, test.prefix)
			if name == "PROTECTED_NO" {
				want = ""
			}
			if got := test.text(n); got != want {
				t.Errorf("%s is %q in Go; want %q", name, got, want)
			}
		}
		if got := test.text(250); got != "250" {
			t.Errorf("enum %s: a number without a name is %q", test.enum, got)
		}
	}
}

func TestNumbersAreTheHeaders(t *testing.T) {
	defines := map[string]uint64{}
	for _, m := range regexp.MustCompile(`(?m)^#define ([A-Z0-9_]+) (\w+)`).FindAllStringSubmatch(layoutH(t), -1) {
		n, err := strconv.ParseUint(strings.TrimSuffix(m[2], "u"), 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		defines[m[1]] = n
	}
	for name, got := range map[string]uint64{
		"LAYOUT": layout, "MAX_NAMES": uint64(len(bpfNameValue{}.Lease)), "MAX_REASONS": maxReasons, "MAX_POLICIES": maxPolicies,
		"RULE_DEFAULT": uint64(RuleDefault), "RULE_GATEWAY": uint64(RuleGateway), "RULE_FORWARD": uint64(RuleForward), "RULE_NONE": uint64(RuleNone),
	} {
		if want, found := defines[name]; !found || got != want {
			t.Errorf("%s is %d in Go and %d in layout.h", name, got, want)
		}
	}
	for name, got := range map[string]uint8{"PHONE_CUT": flagCut, "PHONE_DHCP": flagDHCP} {
		if want := enum(t, "phone_flag")[name]; got != want {
			t.Errorf("%s is %d in Go and %d in layout.h", name, got, want)
		}
	}
	for name, got := range map[string]EventKind{"EVENT_DENIAL": EventDenial, "EVENT_OPENED": EventOpened, "EVENT_CLOSED": EventClosed} {
		if want := enum(t, "event_kind")[name]; uint8(got) != want {
			t.Errorf("%s is %d in Go and %d in layout.h", name, got, want)
		}
	}
	for name, got := range map[string]policy.Direction{"EGRESS": policy.Egress, "INGRESS": policy.Ingress} {
		if want := enum(t, "direction")[name]; uint8(got) != want {
			t.Errorf("%s is %d in Go and %d in layout.h", name, got, want)
		}
	}
	for name, want := range enum(t, "reason") {
		number := map[string]Reason{"REASON_NONE": ReasonNone, "REASON_PROTECTED": ReasonProtected, "REASON_RULE": ReasonRule, "REASON_DEFAULT": ReasonDefault}
		if got, known := number[name]; known && uint8(got) != want {
			t.Errorf("%s is %d in Go and %d in layout.h", name, got, want)
		}
	}
}

func TestTestContext(t *testing.T) {
	var c testContext
	for field, at := range map[string][2]uintptr{"mark": {unsafe.Offsetof(c.Mark), 8}, "ifindex": {unsafe.Offsetof(c.Ifindex), 40}, "cb": {unsafe.Offsetof(c.CB), 48}, "end": {unsafe.Sizeof(c), 256}} {
		if at[0] != at[1] {
			t.Errorf("%s is at %d; struct __sk_buff has it at %d", field, at[0], at[1])
		}
	}
	if unsafe.Sizeof(bpfVerdict{}) > unsafe.Sizeof(c.CB) {
		t.Error("a verdict is longer than cb")
	}
}
