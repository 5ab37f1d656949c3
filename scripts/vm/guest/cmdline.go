package guest

import (
	"fmt"
	"os"
	"strings"
)

// Kinds of machines, as phonehost.vm= names them.
const (
	kindKernel = "kernel"
	kindSystem = "system"
)

// problemsFile takes what went wrong and did not end the boot.
const problemsFile = "/run/vm/problems"

// commandLine is what the kernel's command line tells the program.
type commandLine struct {
	kind    string              // phonehost.vm=
	release string              // phonehost.release=: the directory name of the modules
	cgroup1 bool                // the hierarchies of cgroup v1 are wanted
	options map[string][]string // MODULE.OPTION=VALUE, the part after the point
}

func readCommandLine() (commandLine, error) {
	data, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return commandLine{}, fmt.Errorf("read the kernel's command line: %w", err)
	}
	return parseCommandLine(string(data))
}

// parseCommandLine splits the line as the kernel does: at spaces that are not within double quotes.
func parseCommandLine(text string) (commandLine, error) {
	line := commandLine{options: map[string][]string{}}
	quoted := false
	words := strings.FieldsFunc(text, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\n' || r == '\t')
	})
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch module, option, dotted := strings.Cut(key, "."); {
		case key == "phonehost.vm":
			line.kind = value
		case key == "phonehost.release":
			line.release = value
		case key == "systemd.unified_cgroup_hierarchy":
			line.cgroup1 = value == "0"
		case dotted && module != "" && option != "":
			name := moduleName(module)
			line.options[name] = append(line.options[name], strings.TrimPrefix(word, module+"."))
		}
	}
	if line.kind != kindKernel && line.kind != kindSystem {
		return line, fmt.Errorf("kernel command line %q: phonehost.vm= is %q, want %s or %s", strings.TrimSpace(text), line.kind, kindKernel, kindSystem)
	}
	if line.release == "" || strings.Contains(line.release, "/") {
		return line, fmt.Errorf("kernel command line %q: phonehost.release= is %q, want the kernel's release", strings.TrimSpace(text), line.release)
	}
	return line, nil
}
