package rules

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// reason is a word in capitals that the agent's source gives a name, or an interceptor's ErrorInfo.
var reason = regexp.MustCompile(`(?m)^(?:const |\t)\w+\s*=\s*"([A-Z]+_?[A-Z_]+)"$|Reason:\s*"([A-Z]+_[A-Z_]+)"|Reason\(\) string\s*\{ return "([A-Z_]+)" \}`)

// TestReasonsAreDocumented compares the reasons that the agent's source names with the tables of docs/api.md.
func TestReasonsAreDocumented(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, dir := range []string{"fault", "phone", "stream", "api", "access", "operation", "event"} {
		files, err := filepath.Glob(filepath.Join(root, "agent", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range reason.FindAllStringSubmatch(string(source), -1) {
				word := m[1] + m[2] + m[3]
				found[word] = true
				if !strings.Contains(string(text), "`"+word+"`") {
					t.Errorf("%s: docs/api.md does not list the reason %s", file, word)
				}
			}
		}
	}
	for _, word := range []string{"NO_SCREEN", "DISK_LOW", "IMAGE_IN_USE", "VIEWER_LEFT", "ROLE_TOO_LOW", "START_FAILED"} {
		if !found[word] {
			t.Errorf("the search did not find %s: it is to be mended", word)
		}
	}
}
