package logd

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestRoundTrip(t *testing.T) {
	want := Record{Thread: 42, Time: time.Unix(1, 2), Priority: 'W', Tag: "tag", Message: "one\ntwo"}
	b, err := want.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"W/tag(   42): one", "W/tag(   42): two"}, got.Lines()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestLimits(t *testing.T) {
	if _, err := (Record{Priority: 'X'}).Append(nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("priority X: %v", err)
	}
	if _, err := (Record{Priority: 'I', Tag: strings.Repeat("t", MaxRecord)}).Append(nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("long tag: %v", err)
	}
	b, err := Record{Priority: 'I', Tag: "t", Message: strings.Repeat("m", 2*MaxRecord)}.Append(nil)
	if len(b) != MaxRecord || err != nil {
		t.Errorf("long message: %d bytes, %v", len(b), err)
	}
}

func FuzzParse(f *testing.F) {
	b, _ := Record{Thread: 1, Priority: 'I', Tag: "a", Message: "b"}.Append(nil)
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		if len(r.Lines()) == 0 {
			t.Error("a record without a line")
		}
	})
}
