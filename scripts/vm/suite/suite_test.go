package suite

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// repository is the root of the tree, from this package's directory.
const repository = "../../.."

// suites are the daily packages, or the others.
func suites(daily bool) []vm.Suite {
	var all []vm.Suite
	for _, e := range table {
		if e.daily == daily {
			all = append(all, e.Suite)
		}
	}
	return all
}

// TestVMDaily runs the packages for which kernel, cgroups or architecture matter most.
func TestVMDaily(t *testing.T) {
	vm.Packages(t, vm.On("6.12").System(), suites(true))
}

// TestVMNightly runs all others.
func TestVMNightly(t *testing.T) {
	vm.Packages(t, vm.On("6.12").System().Nightly(), suites(false), append(programs(), vm.Timeout(90*time.Minute))...)
}

// TestEveryPackageIsNamed compares the table with the packages that have tests.
func TestEveryPackageIsNamed(t *testing.T) {
	var named []string
	for _, e := range table {
		named = append(named, e.Package)
	}
	if !slices.IsSorted(named) {
		t.Error("the table is not in the order of names")
	}
	for p := range elsewhere {
		named = append(named, p)
	}
	slices.Sort(named)
	if diff := cmp.Diff(packages(t), named); diff != "" {
		t.Errorf("packages that have tests (-there +named):\n%s", diff)
	}
}

// packages are the directories of the repository that have tests, in order. Those in testdata are no packages of the tree.
func packages(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(repository, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && name != repository) {
			return fs.SkipDir
		}
		if strings.HasSuffix(name, "_test.go") {
			dir, err := filepath.Rel(repository, filepath.Dir(name))
			if err != nil {
				return err
			}
			found = append(found, filepath.ToSlash(dir))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// TestLeftOutTestsExist finds a left-out test that is gone. Sub-tests are only named where they skip themselves, which each run in a
// machine looks at.
func TestLeftOutTestsExist(t *testing.T) {
	for _, e := range table {
		have := tests(t, e.Package)
		for _, left := range slices.Concat(e.Skipped, e.Without) {
			if left.Why == "" || len(left.Tests) == 0 {
				t.Errorf("%s: %+v has no reason or no tests", e.Package, left)
			}
			for _, name := range left.Tests {
				if top, _, _ := strings.Cut(name, "/"); !have[top] {
					t.Errorf("%s has no test %s, which the table leaves out", e.Package, top)
				}
			}
		}
		for _, left := range e.Without {
			for _, name := range left.Tests {
				if strings.Contains(name, "/") {
					t.Errorf("%s: whether the sub-test %s exists cannot be known: leave out its test, or have it skip itself", e.Package, name)
				}
			}
		}
	}
}

// tests are the names of a package's test functions.
func tests(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository, filepath.FromSlash(pkg), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
				names[f.Name.Name] = true
			}
		}
	}
	if len(names) == 0 {
		t.Errorf("%s has no tests", path.Clean(pkg))
	}
	return names
}

// TestThePageHasTheTable compares docs/portability.md with the table: a row for every package, in order, with its left-out tests.
func TestThePageHasTheTable(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(repository, "docs", "portability.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string)
	var order, want []string
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); len(cells) == 8 && strings.HasPrefix(cells[1], " `") {
			name := strings.Trim(cells[1], " `")
			rows[name] = line
			order = append(order, name)
		}
	}
	for _, e := range table {
		want = append(want, e.Package)
		row := rows[e.Package]
		if e.daily != strings.Contains(row, "| daily |") {
			t.Errorf("%s is daily: %v, and the page says %q", e.Package, e.daily, row)
		}
		for _, left := range slices.Concat(e.Skipped, e.Without) {
			for _, name := range left.Tests {
				if top, _, _ := strings.Cut(name, "/"); !strings.Contains(row, "`"+top+"`") {
					t.Errorf("the page does not say that %s leaves out %s", e.Package, top)
				}
			}
		}
	}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("packages (-table +page):\n%s", diff)
	}
}
