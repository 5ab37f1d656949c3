package cli

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// docs/cli.md names every command and every flag.
func TestDocsNameEveryCommandAndFlag(t *testing.T) {
	raw, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	docs := string(raw)
	named := func(pattern string) bool {
		return regexp.MustCompile(strings.ReplaceAll(pattern, " ", `\s+`)).MatchString(docs)
	}
	var root commandLine
	parser, _, err := newParser(&root, newApp(Config{}))
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	err = kong.Visit(parser.Model, func(v kong.Visitable, next kong.Next) error {
		switch v := v.(type) {
		case *kong.Node:
			if v.Hidden {
				return nil
			}
			path := v.Path()
			if v.Type == kong.CommandNode && v.Parent != nil && v.Parent.Type == kong.ArgumentNode {
				path = v.Name // input ID tap
			}
			if v.Type == kong.CommandNode {
				commands++
				// Its name begins a code span, or follows phonectl.
				if !named("[`]" + path + "[` ]|phonectl " + path + "\\b") {
					t.Errorf("docs/cli.md does not name the command %s", v.Path())
				}
				if v.Help == "" || !strings.HasSuffix(v.Help, ".") {
					t.Errorf("the help of %s is no sentence: %q", v.Path(), v.Help)
				}
			}
		case *kong.Flag:
			if v.Name != "help" && !v.Hidden && !named("--"+v.Name+`\b`) {
				t.Errorf("docs/cli.md does not name the flag --%s", v.Name)
			}
			if v.Help == "" {
				t.Errorf("the flag --%s has no help", v.Name)
			}
		}
		return next(nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	if commands < 40 {
		t.Errorf("only %d commands were visited", commands)
	}
}
