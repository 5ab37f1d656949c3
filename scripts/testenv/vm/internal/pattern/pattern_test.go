package pattern

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestBelow(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		rest          []string
		all           bool
	}{
		{"", "TestA/x", nil, true},
		{"TestA", "TestA/x", nil, true},
		{"TestA", "TestB/x", nil, false},
		{"^TestA$/6.12", "TestA/6.12-amd64", nil, true},
		{"^TestA$/6.1$", "TestA/6.12-amd64", nil, false},
		{"TestA/x/inner", "TestA/x", []string{"inner"}, false},
		{"TestA/x/in/ner", "TestA/x", []string{"in/ner"}, false},
		{"TestA/x/one|TestA/x/two|TestB", "TestA/x", []string{"one", "two"}, false},
		{"TestA/x/one|TestA", "TestA/x", []string{"one"}, true},
		{"Test(A|B)/x/(a/b|c)", "TestB/x", []string{"(a/b|c)"}, false},
		{"Test[A|/]/x/y", "TestA/x", []string{"y"}, false},
		{`Test\|/x/y`, "Test|/x", []string{"y"}, false},
		{"TestA/with space/y", "TestA/with_space", []string{"y"}, false},
		{"/x", "TestA/x", nil, true},
	} {
		t.Run(tt.pattern, func(t *testing.T) {
			rest, all, err := Below(tt.pattern, tt.name)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.rest, rest); diff != "" || all != tt.all {
				t.Errorf("Below(%q, %q) all %v, want %v; rest (-want +got):\n%s", tt.pattern, tt.name, all, tt.all, diff)
			}
		})
	}
	if _, _, err := Below("Test(", "TestA"); err == nil {
		t.Error("a pattern that is no regular expression was taken")
	}
}

func TestExactly(t *testing.T) {
	if got, want := Exactly("TestA/6.12-amd64#01", nil), `^TestA$/^6\.12-amd64#01$`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := Exactly("TestA", []string{"x", "y/z"}), `^TestA$/x|^TestA$/y/z`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// What Exactly makes, Below understands.
	rest, all, err := Below(Exactly("TestA/(b)[c|d", []string{"x"}), "TestA/(b)[c|d")
	if diff := cmp.Diff([]string{"x"}, rest); err != nil || all || diff != "" {
		t.Errorf("%v %v %s", err, all, diff)
	}
}

// FuzzBelow finds that no pattern ends the process, and that a name's own pattern lets the name through.
func FuzzBelow(f *testing.F) {
	f.Add("TestA/x|TestB/[a/b]", "TestA/x")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if _, all, err := Below(pattern, name); err != nil && all {
			t.Errorf("Below(%q, %q) matched and reported %v", pattern, name, err)
		}
		if strings.Contains(name, " ") || !utf8.ValidString(name) {
			return // no test has such a name
		}
		if _, all, err := Below(Exactly(name, nil), name); err != nil || !all {
			t.Errorf("%q does not match its own pattern: %v", name, err)
		}
	})
}
