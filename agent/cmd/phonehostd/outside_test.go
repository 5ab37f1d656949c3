package main

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/phone"
)

// TestPhonesOutside follows the warning from one change of phones to the next.
func TestPhonesOutside(t *testing.T) {
	out := func(id string) phone.Change {
		return phone.Change{ID: id, Snapshot: phone.Snapshot{Status: phone.Running, Outside: true}}
	}
	in := func(id string, s phone.Status) phone.Change {
		return phone.Change{ID: id, Snapshot: phone.Snapshot{Status: s}}
	}
	a := &agent{logger: slog.New(slog.NewTextHandler(t.Output(), nil)), health: health.New(nil), cgroupRoot: "/here", delegated: true}
	outside := map[string]bool{}
	for _, tt := range []struct {
		name    string
		changes []phone.Change
		want    string // what the warning says; empty: there is none
	}{
		{"nothing", nil, ""},
		{"one in its place", []phone.Change{in("a", phone.Running)}, ""},
		{"three elsewhere", []phone.Change{out("c"), out("b"), out("d")}, "had another: 3. They keep"},
		{"what mends it", nil, "phonectl restart b c d"},
		{"what it means", nil, "/here"},
		{"containerd is away", []phone.Change{in("b", phone.Unknown)}, "phonectl restart b c d"},
		{"one has moved", []phone.Change{in("c", phone.Running)}, "phonectl restart b d"},
		{"one is off", []phone.Change{in("b", phone.PoweredOff)}, "phonectl restart d"},
		{"the last is deleted", []phone.Change{{ID: "d", Deleted: true}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a.noteOutside(outside, tt.changes)
			got := ""
			for _, f := range a.health.List() {
				got += f.Name + ": " + f.Message
			}
			if !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
				t.Errorf("the warnings are %q, want %q", got, tt.want)
			}
		})
	}
}

func TestOutsideMessageIsBounded(t *testing.T) {
	var ids []string
	for i := range maxNamed + 7 {
		ids = append(ids, fmt.Sprintf("p%d", i))
	}
	if got := outsideMessage("/here", false, ids); !strings.HasSuffix(got, fmt.Sprintf(" p%d, and 7 more", maxNamed-1)) || strings.Contains(got, "systemd") {
		t.Errorf("the message is %q", got)
	}
}
