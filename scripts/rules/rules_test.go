package rules

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/phonehost/phonehost"

// goPackage is the part of `go list -json` that the rules read.
type goPackage struct {
	ImportPath   string
	Dir          string
	Name         string
	Standard     bool
	GoFiles      []string
	CgoFiles     []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// list returns what `go list -json` prints with the given environment and arguments.
func list(t *testing.T, env []string, args ...string) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.Bytes())
	}
	var packages []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		packages = append(packages, p)
	}
}

func under(path, dir string) bool {
	return path == module+"/"+dir || strings.HasPrefix(path, module+"/"+dir+"/")
}

// TestImportDirection keeps the three engines apart from each other and from the agent that composes them.
func TestImportDirection(t *testing.T) {
	engines := []string{"runtime", "encoder", "netpolicy"}
	checked := 0
	for _, p := range list(t, nil, "./...") {
		for _, imported := range p.Imports {
			if !strings.HasPrefix(imported, module+"/") {
				continue
			}
			checked++
			if why := forbidden(engines, p.ImportPath, imported); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imported, why)
			}
		}
	}
	if checked == 0 {
		t.Error("no import of this module was found: the rule checks nothing")
	}
}

// forbidden returns why from may not import to, or "".
func forbidden(engines []string, from, to string) string {
	engine := ""
	for _, e := range engines {
		if under(from, e) {
			engine = e
		}
	}
	switch {
	case under(to, "scripts") && !under(from, "scripts"):
		return "product code does not import scripts"
	case under(from, "proto") && !under(to, "proto"):
		return "proto imports nothing of ours"
	case under(to, "agent/cli") && !under(from, "agent/cli") && !under(from, "agent/cmd/phonectl"):
		return "only phonectl imports its commands"
	case under(from, "agent/cli") && (under(to, "agent/store") || under(to, "agent/phone") || under(to, "runtime") || under(to, "netpolicy")):
		return "phonectl reaches phones only through the API"
	case engine == "":
		return ""
	case under(to, "agent"):
		return "an engine does not know the agent"
	case under(to, "proto") && (engine != "encoder" || !under(to, "proto/phonehost/display")):
		return "only the agent imports proto, and the encoder the display protocol"
	}
	for _, e := range engines {
		if e != engine && under(to, e) {
			return "the engines do not know each other"
		}
	}
	return ""
}

// TestPackageComments asks every package for exactly one comment that says what it is.
func TestPackageComments(t *testing.T) {
	for _, p := range list(t, nil, "./...") {
		if under(p.ImportPath, "proto/phonehost") {
			continue // generated; the comments stand in the .proto files
		}
		comments := 0
		for _, file := range append(slices.Clone(p.GoFiles), p.CgoFiles...) {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil && isPackageComment(p.Name, f.Doc) {
				comments++
			}
		}
		if len(p.GoFiles)+len(p.CgoFiles) > 0 && comments != 1 {
			t.Errorf("%s has %d package comments, want one that begins with \"Package %s\" (\"Command NAME\" for a main)", p.ImportPath, comments, p.Name)
		}
	}
}

func isPackageComment(name string, doc *ast.CommentGroup) bool {
	text := doc.Text()
	if name == "main" {
		return strings.HasPrefix(text, "Command ")
	}
	return strings.HasPrefix(text, "Package "+name+" ")
}

// TestPureGo proves that the daemon and its tools need no C, on both architectures.
func TestPureGo(t *testing.T) {
	mains := []string{"./agent/cmd/phonehostd", "./agent/cmd/phonectl", "./runtime/cmd/phone-log", "./scripts/testphone/cmd/testphone"}
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			// With cgo allowed, so that a package which would use it shows its cgo files.
			for _, p := range list(t, []string{"CGO_ENABLED=1", "GOOS=linux", "GOARCH=" + arch}, append([]string{"-deps"}, mains...)...) {
				if len(p.CgoFiles) > 0 && !p.Standard && !slices.Contains(cgoOptional, p.ImportPath) {
					t.Errorf("%s uses cgo: %v", p.ImportPath, p.CgoFiles)
				}
			}
		})
	}
}

// cgoOptional are modules of others that have cgo files beside a pure-Go form, which CGO_ENABLED=0 selects.
var cgoOptional = []string{}

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// sources calls fn for every Go file that people wrote.
func sources(t *testing.T, fn func(path string, text []byte)) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "*.go")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for scan := bufio.NewScanner(bytes.NewReader(out)); scan.Scan(); {
		text, err := os.ReadFile(filepath.Join(root(t), scan.Text()))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if !generated.Match(text) {
			fn(scan.Text(), text)
		}
	}
}

// TestFileLength keeps files to one subject.
func TestFileLength(t *testing.T) {
	const longest = 500
	sources(t, func(path string, text []byte) {
		if n := bytes.Count(text, []byte("\n")); n > longest {
			t.Errorf("%s has %d lines, more than %d: split it by subject", path, n, longest)
		}
	})
}

// TestNoSleepInTests keeps tests from waiting by the clock.
func TestNoSleepInTests(t *testing.T) {
	sleep := regexp.MustCompile(`\btime\.Sleep\(`)
	sources(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, "_test.go") || path == "scripts/rules/rules_test.go" || bytes.Contains(text, []byte(`"testing/synctest"`)) {
			return
		}
		if sleep.Match(text) {
			t.Errorf("%s sleeps: wait for the event instead, or use testing/synctest", path)
		}
	})
}

// TestTopLevel keeps the top level to what it is meant to hold.
func TestTopLevel(t *testing.T) {
	allowed := []string{"agent", "runtime", "encoder", "netpolicy", "proto", "scripts", "docs", "go.mod", "go.sum", "Makefile", "README.md", "LICENSE"}
	cmd := exec.CommandContext(t.Context(), "git", "ls-files")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for scan := bufio.NewScanner(bytes.NewReader(out)); scan.Scan(); {
		top, _, _ := strings.Cut(scan.Text(), "/")
		if !strings.HasPrefix(top, ".") && !slices.Contains(allowed, top) {
			t.Errorf("%s: %s does not belong at the top level", scan.Text(), top)
		}
	}
}
