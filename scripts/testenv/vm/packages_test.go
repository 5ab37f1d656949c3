package vm

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/testenv/vm/internal/replay"
)

// Packages that TestLocal runs on one localHost: one of the tree, and one whose tests end in every way.
const (
	patternPackage = "scripts/testenv/vm/internal/pattern"
	fixturePackage = "scripts/testenv/vm/internal/replay/testdata/fixture"
)

// localSuites are the packages, with what the mode has wrong.
func localSuites(mode string) []Suite {
	fixture := Suite{
		Package: fixturePackage,
		Skipped: []LeftOut{{"it is made to", []string{"TestSkip", "TestSkip/inner"}}},
		Without: []LeftOut{{"it fails", []string{"TestFail"}}, {"it fails too", []string{"TestNames/a"}}},
		Options: []Option{Only("TestPass|TestSkip|TestFail|TestNames")},
	}
	switch mode {
	case "packages, one skips that is not named":
		fixture.Skipped[0].Tests = []string{"TestSkip/inner"}
	case "packages, one that is named does not skip":
		fixture.Skipped = append(fixture.Skipped, LeftOut{"a mistake", []string{"TestPass"}})
	case "packages, one fails":
		fixture.Without = nil
	}
	return []Suite{fixture, {Package: patternPackage, Options: []Option{Except("Exactly")}}}
}

func TestPackages(t *testing.T) {
	const fixture, pattern = "6.1-arm64/" + fixturePackage, "6.1-arm64/" + patternPackage
	const pass, fail, skip = replay.Pass, replay.Fail, replay.Skip
	for _, tt := range []struct {
		name string
		args []string
		ends map[string]replay.Kind // of some tests; 0 did not run
		text string
	}{
		{name: "packages", ends: map[string]replay.Kind{
			"": pass, "6.1-arm64": pass, fixture: pass, fixture + "/TestPass": pass, fixture + "/TestSkip": skip, fixture + "/TestSkip/inner": skip,
			fixture + "/TestFail": 0, fixture + "/TestNames": pass, fixture + "/TestNames/same": pass, fixture + "/TestNames/a": 0, fixture + "/TestOutput": 0,
			pattern: pass, pattern + "/TestBelow": pass, pattern + "/TestExactly": 0,
		}},
		{name: "packages, one skips that is not named", ends: map[string]replay.Kind{"": fail, fixture: fail, fixture + "/TestSkip": skip, pattern: pass},
			text: "TestSkip skipped itself, which was not expected"},
		{name: "packages, one that is named does not skip", ends: map[string]replay.Kind{"": fail, fixture: fail, fixture + "/TestPass": pass, pattern: pass},
			text: "TestPass did not skip itself, as was expected of it (a mistake)"},
		{name: "packages, one fails", ends: map[string]replay.Kind{"": fail, fixture: fail, fixture + "/TestFail/bad": fail, pattern: pass}, text: "very wrong"},
		{name: "packages", args: []string{"/" + fixturePackage + "/TestPass"},
			ends: map[string]replay.Kind{"": pass, fixture: pass, fixture + "/TestPass": pass, fixture + "/TestSkip": 0, pattern: 0}},
	} {
		t.Run(strings.Join(append([]string{tt.name}, tt.args...), " "), func(t *testing.T) {
			got, out := runLocal(t, tt.name, "subset", "-test.run=TestLocal/6.1-arm64"+strings.Join(tt.args, ""))
			ends := make(map[string]replay.Kind)
			for name := range tt.ends {
				ends[name] = got[name]
			}
			if diff := cmp.Diff(tt.ends, ends); diff != "" || !strings.Contains(out, tt.text) {
				t.Errorf("results (-want +got):\n%s\nwant %q in the output:\n%s", diff, tt.text, out)
			}
		})
	}
}

func TestChosen(t *testing.T) {
	suites := []Suite{{Package: "runtime/cgroup"}, {Package: "runtime/image"}, {Package: "runtime/image/sparse"}}
	for _, tt := range []struct {
		run, skip string
		want      []string
	}{
		{"", "", []string{"runtime/cgroup", "runtime/image", "runtime/image/sparse"}},
		{"TestA/x/runtime/cgroup", "", []string{"runtime/cgroup"}},
		{"TestA/x/runtime/image/TestB|TestA/x/runtime/cgroup$", "", []string{"runtime/cgroup", "runtime/image"}},
		{"TestA/x/runtime/image", "", []string{"runtime/image", "runtime/image/sparse"}},
		{"TestA/x/runtime/image/sparse", "", []string{"runtime/image/sparse"}},
		{"TestA/x/runtime/image/sparse/TestB", "", []string{"runtime/image/sparse"}},
		{"TestA", "TestA/x/runtime/cgroup$", []string{"runtime/image", "runtime/image/sparse"}},
		{"TestA", "TestA/x/runtime/cgroup/TestB", []string{"runtime/cgroup", "runtime/image", "runtime/image/sparse"}},
		{"TestB", "", nil},
	} {
		var got []string
		for _, s := range chosen("TestA/x", suites, tt.run, tt.skip) {
			got = append(got, s.Package)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("-run %q -skip %q: %v, want %v", tt.run, tt.skip, got, tt.want)
		}
	}
}
