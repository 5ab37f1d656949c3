package applist_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/netpolicy/applist"
)

func list(mode applist.Mode, entries ...string) applist.List {
	return applist.List{Name: "school", Mode: mode, Packages: entries, Enabled: true}
}

// image is what came with the tests' phones.
var image = map[string]bool{"android": true, "com.android.launcher": true, "com.android.settings": true, "com.vendor.core": true, "com.gone": false}

func TestDecide(t *testing.T) {
	disabled := list(applist.Deny, "com.a")
	disabled.Enabled = false
	for _, tt := range []struct {
		list applist.List
		pkg  string
		want applist.Decision
	}{
		{list(applist.Deny, "com.a"), "com.a", applist.Decision{Deny: true, Rule: applist.Listed, Entry: "com.a"}},
		{list(applist.Deny, "com.a"), "com.A", applist.Decision{Rule: applist.Unlisted}},
		{list(applist.Deny, "com.a"), "com.a2", applist.Decision{Rule: applist.Unlisted}},
		{list(applist.Deny, "com.a"), "com.a.b", applist.Decision{Rule: applist.Unlisted}},
		{list(applist.Deny, "com.a"), "com.", applist.Decision{Rule: applist.Unlisted}},
		{list(applist.Deny), "com.a", applist.Decision{Rule: applist.Unlisted}},
		{list(applist.Deny, "com.android.launcher"), "com.android.launcher", applist.Decision{Deny: true, Rule: applist.Listed, Entry: "com.android.launcher"}},
		{list(applist.Allow, "com.a"), "com.a", applist.Decision{Rule: applist.Listed, Entry: "com.a"}},
		{list(applist.Allow, "com.a"), "com.b", applist.Decision{Deny: true, Rule: applist.Unlisted}},
		{list(applist.Allow), "com.a", applist.Decision{Deny: true, Rule: applist.Unlisted}},
		{list(applist.Allow), "com.android.launcher", applist.Decision{Rule: applist.Preinstalled}},
		{list(applist.Allow), "com.gone", applist.Decision{Deny: true, Rule: applist.Unlisted}},
		{list(applist.Allow, "com.android.*"), "com.android.launcher", applist.Decision{Rule: applist.Listed, Entry: "com.android.*"}},
		{list(applist.Deny, "com.a.*"), "com.a.b", applist.Decision{Deny: true, Rule: applist.Listed, Entry: "com.a.*"}},
		{list(applist.Deny, "com.a.*"), "com.a.b.c", applist.Decision{Deny: true, Rule: applist.Listed, Entry: "com.a.*"}},
		{list(applist.Deny, "com.a.*"), "com.a.", applist.Decision{Deny: true, Rule: applist.Listed, Entry: "com.a.*"}},
		{list(applist.Deny, "com.a.*"), "com.a..b", applist.Decision{Deny: true, Rule: applist.Listed, Entry: "com.a.*"}},
		{list(applist.Deny, "com.a.*"), "com.a", applist.Decision{Rule: applist.Unlisted}},
		{list(applist.Deny, "com.a.*"), "com.ab", applist.Decision{Rule: applist.Unlisted}},
		{list(applist.Deny, "com.a.*"), "org.com.a.b", applist.Decision{Rule: applist.Unlisted}},
		{list(applist.Deny, "com.*", "com.a.*", "com.a.b"), "com.a.b", applist.Decision{Deny: true, Rule: applist.Listed, Entry: "com.a.b"}},
		{list(applist.Deny, "com.a.*", "com.*"), "com.a.b", applist.Decision{Deny: true, Rule: applist.Listed, Entry: "com.a.*"}},
		{disabled, "com.a", applist.Decision{Rule: applist.Unrestricted}},
		{applist.List{}, "com.a", applist.Decision{Rule: applist.Unrestricted}},
	} {
		got := tt.list.Decide(tt.pkg, image[tt.pkg])
		if got != tt.want || tt.list.Denies(tt.pkg, image[tt.pkg]) != got.Deny {
			t.Errorf("the %v list %q says %+v of %s, want %+v", tt.list.Mode, tt.list.Packages, got, tt.pkg, tt.want)
		}
	}
}

func TestValidate(t *testing.T) {
	many := make([]string, applist.MaxPackages)
	for i := range many {
		many[i] = fmt.Sprintf("com.example.app%d", i)
	}
	with := func(edit func(*applist.List)) applist.List { l := list(applist.Deny, "com.a"); edit(&l); return l }
	for name, l := range map[string]applist.List{
		"longest": with(func(l *applist.List) {
			l.Name, l.Description, l.Packages = strings.Repeat("ж", 64), strings.Repeat("字", 255), many
		}),
		"empty":        list(applist.Allow),
		"one letter":   with(func(l *applist.List) { l.Name = "a" }),
		"with a blank": with(func(l *applist.List) { l.Name = "Schule 7, Klasse 3" }),
		"disabled":     {Name: "x", Mode: applist.Allow},
	} {
		if err := l.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tt := range map[string]struct {
		list applist.List
		want string
	}{
		"no name":             {with(func(l *applist.List) { l.Name = "" }), "0 characters; want 1..64"},
		"long name":           {with(func(l *applist.List) { l.Name = strings.Repeat("ж", 65) }), "65 characters; want 1..64"},
		"name with an end":    {with(func(l *applist.List) { l.Name = "a\n" }), `has a '\n'`},
		"name not UTF-8":      {with(func(l *applist.List) { l.Name = "a\xff" }), "printable"},
		"name with blanks":    {with(func(l *applist.List) { l.Name = " a" }), `want "a"`},
		"name like an option": {with(func(l *applist.List) { l.Name = "--deny" }), "options of commands"},
		"no mode":             {with(func(l *applist.List) { l.Mode = 0 }), "mode 0: want 1 (deny) or 2 (allow)"},
		"mode":                {with(func(l *applist.List) { l.Mode = 3 }), "mode 3"},
		"long description":    {with(func(l *applist.List) { l.Description = strings.Repeat("a", 256) }), "256 characters"},
		"description":         {with(func(l *applist.List) { l.Description = "a\x1b[2J" }), `has a '\x1b'`},
		"many":                {list(applist.Deny, append(slices.Clone(many), "com.a")...), "501 packages: a list has at most 500"},
		"entry":               {list(applist.Deny, "com.a", "com.b", "com.c-d"), `package 3, "com.c-d": '-' is in no package's name`},
		"twice":               {list(applist.Deny, "com.a", "com.b", "com.a"), `package 3, "com.a": is package 1 already`},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.list.Validate(); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the error is %v; want one that says %q", err, tt.want)
			}
		})
	}
}

func TestCheckEntry(t *testing.T) {
	long := "com." + strings.Repeat("a", applist.MaxName-4)
	for _, e := range []string{"com.example", "com.example.app_2", "a.b", "A.B9_", "android", long, "com.example.*", "com.*", "a.b.c.*", long + ".*"} {
		if err := applist.CheckEntry(e); err != nil {
			t.Error(err)
		}
		if err := applist.CheckPackage(e); (err == nil) != !strings.HasSuffix(e, "*") {
			t.Errorf("as a package %s is %v", e, err)
		}
	}
	for entry, want := range map[string]string{
		"":                         "is no name; want one as com.example.app",
		"example":                  "has one part",
		"com.example.":             "want com.example, or com.example.* for all that begin so",
		"com.example..":            "want com.example, or",
		"com..example":             "has an empty part",
		".com.example":             "has an empty part",
		".":                        "has an empty part",
		"com.1example":             `the part "1example" begins with '1'`,
		"com._example":             `begins with '_'`,
		"com.exa-mple":             "'-' is in no package's name",
		"com.exa mple":             "' ' is in no package's name",
		"com.bücher":               "'ü' is in no package's name",
		"com.\xff":                 `'�' is in no package's name`,
		"com/example":              "'/' is in no package's name",
		"com.example\x00":          `'\x00' is in no package's name`,
		"*":                        "would stand for every package",
		".*":                       "nowhere else",
		"com.example*":             "a pattern ends in a dot and one '*', as com.example.*",
		"com.example.**":           "as com.example.*",
		"*.example":                "'*' stands at the end",
		"com.*.example":            "'*' stands at the end",
		"com.1x.*":                 `the part "1x" begins with '1'`,
		"com..*":                   "has an empty part",
		"package:com.example":      "want the name alone, com.example",
		"package:x":                "':' is in no package's name",
		long + "a":                 "has 224 characters; Android takes names of at most 223",
		long + "a.*":               "has 224 characters",
		strings.Repeat("a", 1<<20): "has 1048576 characters",
	} {
		err := applist.CheckEntry(entry)
		if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), want) || len(err.Error()) > 400 {
			t.Errorf("%.40q is %v; want an error that says %q", entry, err, want)
		}
		if err := applist.CheckPackage(entry); err == nil {
			t.Errorf("as a package %q is right", entry)
		}
	}
}

func TestMode(t *testing.T) {
	for _, m := range []applist.Mode{applist.Deny, applist.Allow} {
		if got, err := applist.ParseMode(m.String()); err != nil || got != m {
			t.Errorf("%v is read as %v, %v", m, got, err)
		}
	}
	for _, word := range []string{"", "Deny", "mode 0", "block"} {
		if m, err := applist.ParseMode(word); !errors.Is(err, errdefs.ErrInvalidArgument) || m != 0 {
			t.Errorf("%q is read as %v, %v", word, m, err)
		}
	}
}

func TestRemarks(t *testing.T) {
	isolated := list(applist.Deny, "com.a")
	isolated.DenyIsolated = true
	for _, tt := range []struct {
		list applist.List
		want []string
	}{
		{list(applist.Allow, "com.a"), nil},
		{isolated, []string{"isolated processes are denied to all apps: they show no web pages (WebView)"}},
		{list(applist.Allow), []string{"an allow list without packages allows no app but those that came with the image"}},
		{list(applist.Deny), []string{"a deny list without packages denies nothing"}},
		{list(applist.Deny, "com.a.b", "com.a", "com.a.*", "com.*"), []string{
			"com.a.b changes nothing: com.a.* stands for it already", "com.a changes nothing: com.* stands for it already",
			"com.a.* changes nothing: com.* stands for it already",
		}},
	} {
		if diff := cmp.Diff(tt.want, tt.list.Remarks()); diff != "" {
			t.Errorf("%v %q:\n%s", tt.list.Mode, tt.list.Packages, diff)
		}
	}
}
