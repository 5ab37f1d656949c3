package property

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestSetRules(t *testing.T) {
	long := strings.Repeat("x", MaxValue)
	for _, test := range []struct {
		title, name, value string
		ok                 bool
	}{
		{"plain", "debug.a", "1", true},
		{"all kinds of characters", "aZ0.b-c_d@e:f", "1", true},
		{"empty value", "a", "", true},
		{"longest value", "a", long, true},
		{"value too long", "a", long + "x", false},
		{"ro value may be long", "ro.a", long + "x", true},
		{"ro value too long", "ro.a", strings.Repeat("x", MaxReadOnlyValue+1), false},
		{"longest name", strings.Repeat("n", MaxName), "1", true},
		{"name too long", strings.Repeat("n", MaxName+1), "1", false},
		{"empty name", "", "1", false},
		{"leading dot", ".a", "1", false},
		{"trailing dot", "a.", "1", false},
		{"two dots", "a..b", "1", false},
		{"space", "a b", "1", false},
		{"not text", "a", "\xff", false},
		{"zero byte", "a", "x\x00", false},
	} {
		t.Run(test.title, func(t *testing.T) {
			s := NewStore()
			err := s.Set(test.name, test.value)
			if test.ok && err != nil || !test.ok && !errdefs.IsInvalidArgument(err) {
				t.Fatalf("Set(%.20q, %.20q) = %v", test.name, test.value, err)
			}
			want := ""
			if test.ok {
				want = test.value
			}
			if got := s.Get(test.name); got != want {
				t.Errorf("Get = %.20q, want %.20q", got, want)
			}
		})
	}
}

func TestReadOnlyIsWrittenOnce(t *testing.T) {
	s := NewStore()
	if err := s.Set("ro.a", "1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("ro.a", "2"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("second write: %v", err)
	}
	if got := s.Get("ro.a"); got != "1" {
		t.Errorf("value %q", got)
	}
}

func TestPersistentPropertiesSurvive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "persistent_properties")
	first := NewStore()
	if err := first.OpenPersistent(file); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"persist.a": "1", "persist.b": "", "debug.c": "3"} {
		if err := first.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	second := NewStore()
	if err := second.Set("persist.b", "given"); err != nil {
		t.Fatal(err)
	}
	if err := second.OpenPersistent(file); err != nil {
		t.Fatal(err)
	}
	want := []Property{{"persist.a", "1"}, {"persist.b", "given"}}
	if diff := cmp.Diff(want, second.All()); diff != "" {
		t.Errorf("second boot (-want +got):\n%s", diff)
	}
	if err := second.Set("persist.a", "2"); err != nil {
		t.Fatal(err)
	}
	got, err := ReadPersistent(file)
	want[0].Value = "2"
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("file (-want +got): %v\n%s", err, diff)
	}
}

func TestPersistentFailureChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	s := NewStore()
	if err := s.OpenPersistent(filepath.Join(dir, "p")); err != nil {
		t.Fatal(err)
	}
	if err := s.Set("persist.a", "1"); err == nil {
		t.Fatal("set without a place to keep it")
	}
	if got := s.All(); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func TestDamagedPersistentFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p")
	if err := os.WriteFile(file, []byte("\x0a\xffgarbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := NewStore().OpenPersistent(file); !errdefs.IsDataLoss(err) {
		t.Errorf("error %v", err)
	}
}

func TestSubscriptionKeepsTheLastValue(t *testing.T) {
	s := NewStore()
	s.Set("a.x", "0")
	sub := s.Subscribe("a.")
	defer sub.Close()
	s.Set("a.x", "1")
	s.Set("a.x", "2")
	s.Set("b.y", "3")
	<-sub.Ready()
	if diff := cmp.Diff([]Property{{"a.x", "2"}}, sub.Take()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := sub.Take(); len(got) != 0 {
		t.Errorf("taken twice: %v", got)
	}
}

func TestParseArgs(t *testing.T) {
	got, errs := ParseArgs([]string{"androidboot.phonehost_width=720", "ro.product.model=a b", "persist.x=1=2", "qemu", "b ad=1"})
	want := []Property{{"ro.boot.phonehost_width", "720"}, {"ro.product.model", "a b"}, {"persist.x", "1=2"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(errs) != 2 {
		t.Errorf("errors %v", errs)
	}
}

func TestParseBuildProp(t *testing.T) {
	got, errs := ParseBuildProp("# comment\n\nro.build.type = user\nro.a=\nnonsense\n.b=1\n")
	if diff := cmp.Diff([]Property{{"ro.build.type", "user"}, {"ro.a", ""}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(errs) != 2 || !strings.Contains(errs[0].Error(), "line 5") {
		t.Errorf("errors %v", errs)
	}
}

func FuzzParsePersistent(f *testing.F) {
	f.Add(formatPersistent([]Property{{"persist.a", "1"}, {"persist.b", ""}}))
	f.Add([]byte("\x0a\x02\x0a\x05"))
	f.Add([]byte("\x08\x01\x0a\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parsePersistent(text)
		if err != nil {
			return
		}
		again, err := parsePersistent(formatPersistent(list))
		if diff := cmp.Diff(list, again); diff != "" || err != nil {
			t.Errorf("does not survive a round trip: %v\n%s", err, diff)
		}
	})
}
