package applist_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/applist"
)

func TestParsePackages(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"nothing":     {"", nil},
		"comments":    {"# games\n\n  # no entry: com.a\n", nil},
		"entries":     {"# games\ncom.b # the worst\n\n\tcom.a.*  \ncom.c", []string{"com.b", "com.a.*", "com.c"}},
		"other lines": {"\ufeffcom.a\r\ncom.b\r\n", []string{"com.a", "com.b"}},
	} {
		got, err := applist.ParsePackages([]byte(tt.text))
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
	}
	many := strings.Builder{}
	for i := range applist.MaxPackages {
		many.WriteString("# a comment\ncom.p" + strings.Repeat("x", i%200) + string(rune('a'+i/200)) + "\n")
	}
	if got, err := applist.ParsePackages([]byte(many.String())); err != nil || len(got) != applist.MaxPackages {
		t.Errorf("the longest list is read as %d entries, %v", len(got), err)
	}
	for text, want := range map[string]string{
		"com.a\ncom.b com.c\n":           `line 2: "com.b com.c": has 2 words; want one package a line`,
		"com.a, com.b\n":                 `has 2 words`,
		"com.a,com.b\n":                  `line 1: "com.a,com.b": ',' is in no package's name`,
		"# x\n\ncom.a\n#\ncom.b\ncom.a#": `line 6: "com.a": stands in line 3 already`,
		many.String() + "com.q\n":        "line 1001: a list has at most 500 packages",
		"com.a\x00\n":                    `'\x00' is in no package's name`,
		"com.example*":                   `line 1: "com.example*": a pattern ends in a dot`,
	} {
		if got, err := applist.ParsePackages([]byte(text)); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("%.40q is read as %q, %v; want an error that says %q", text, got, err, want)
		}
	}
}

// FuzzParsePackages reads text of anybody's: what is read is a list's, and is written and read again as it was.
func FuzzParsePackages(f *testing.F) {
	for _, text := range []string{"", "com.a\n", "# x\ncom.a.*\r\n\ncom.b # y", "\ufeffandroid\n", "com.a\ncom.a\n", "*\n", "com.\xff\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, err := applist.ParsePackages(text)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) || entries != nil {
				t.Fatalf("%q, %v", entries, err)
			}
			return
		}
		if err := list(applist.Deny, entries...).Validate(); err != nil {
			t.Fatalf("%q was read, and is wrong: %v", text, err)
		}
		again, err := applist.ParsePackages(applist.FormatPackages(entries))
		if err != nil || !slices.Equal(again, entries) {
			t.Fatalf("%q is written and read as %q, %v", entries, again, err)
		}
	})
}
