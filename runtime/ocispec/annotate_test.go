package ocispec_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// reasons say why each line of a spec is there: testdata/reasons.txt, whose lines are "KEY | WHY". Keys are those that reasonKey makes.
type reasons struct {
	why  map[string]string
	used map[string]bool
}

func loadReasons(t *testing.T) *reasons {
	t.Helper()
	text, err := os.ReadFile("testdata/reasons.txt")
	if err != nil {
		t.Fatal(err)
	}
	r := &reasons{why: map[string]string{}, used: map[string]bool{}}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, why, ok := strings.Cut(line, " | ")
		if !ok || why == "" || r.why[key] != "" {
			t.Fatalf("testdata/reasons.txt: %q has no reason, or a second one", line)
		}
		r.why[key] = why
	}
	return r
}

// annotate is a spec as indented JSON in which every line that reasonKey knows ends with its reason.
func (r *reasons) annotate(t *testing.T, spec *specs.Spec) string {
	t.Helper()
	text, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	p := &place{spec: spec}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if keys := reasonKey(p.next(line), line, spec); keys != nil {
			line += " // " + r.find(t, keys)
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}

// find returns the reason of the first of the keys that has one.
func (r *reasons) find(t *testing.T, keys []string) string {
	t.Helper()
	for _, key := range keys {
		if why := r.why[key]; why != "" {
			r.used[key] = true
			return why
		}
	}
	t.Errorf("testdata/reasons.txt does not say why: %s", keys[0])
	return "?"
}

// place follows where in a JSON text, as MarshalIndent writes it, a line is.
type place struct {
	spec  *specs.Spec
	path  []string // names and, in arrays, indices
	index []int    // of the arrays and objects around; -1 in objects
}

// next returns the path of the line's value, such as "mounts/3/options/0".
func (p *place) next(line string) string {
	text := strings.TrimSuffix(strings.TrimSpace(line), ",")
	if text == "}" || text == "]" {
		p.path, p.index = p.path[:max(len(p.path)-1, 0)], p.index[:len(p.index)-1]
		return ""
	}
	name, value := "", text
	if last := len(p.index) - 1; last >= 0 && p.index[last] >= 0 {
		name = fmt.Sprint(p.index[last])
		p.index[last]++
	} else if key, after, ok := strings.Cut(text, `": `); ok {
		name, value = strings.TrimPrefix(key, `"`), after
	}
	path := strings.Join(append(slices.Clone(p.path), name), "/")
	switch value {
	case "{", "[":
		index := -1
		if value == "[" {
			index = 0
		}
		if name != "" {
			p.path = append(p.path, name)
		}
		p.index = append(p.index, index)
	}
	return strings.TrimPrefix(path, "/")
}

// reasonKey names what a line needs a reason for, the most particular name first, or nil.
func reasonKey(path, line string, spec *specs.Spec) []string {
	text := strings.Trim(strings.TrimSuffix(strings.TrimSpace(line), ","), `"`)
	part := strings.Split(path, "/")
	at := func(pattern string) bool {
		ok, _ := filepath.Match(pattern, path)
		return ok
	}
	number := func(i int) int {
		n := 0
		fmt.Sscan(part[i], &n)
		return n
	}
	name, _, _ := strings.Cut(text, "=")
	switch {
	case at("process/args/*"):
		return []string{"arg " + name}
	case at("process/env/*"):
		return []string{"env " + name}
	case at("process/capabilities/*/*"):
		return []string{"capability " + text}
	case at("process/rlimits/*/type"):
		return []string{"rlimit " + spec.Process.Rlimits[number(2)].Type}
	case at("process/terminal"), at("process/noNewPrivileges"), at("root/readonly"), at("linux/resources/pids/limit"):
		return []string{path}
	case at("mounts/*/destination"):
		return []string{"mount " + spec.Mounts[number(1)].Destination}
	case at("mounts/*/options/*"):
		return []string{"mount " + spec.Mounts[number(1)].Destination + " option " + name, "option " + name}
	case at("linux/namespaces/*/type"):
		return []string{"namespace " + string(spec.Linux.Namespaces[number(2)].Type)}
	case at("linux/devices/*/path"):
		return []string{"device " + spec.Linux.Devices[number(2)].Path}
	case at("linux/resources/devices/*/allow"):
		return []string{"rule " + rule(spec.Linux.Resources.Devices[number(3)])}
	case at("linux/maskedPaths/*"):
		return []string{"masked " + text}
	case at("linux/readonlyPaths/*"):
		return []string{"readonly " + text}
	}
	return nil
}

// rule writes a rule for devices as "c 10:229 rw", and that for all as "all".
func rule(d specs.LinuxDeviceCgroup) string {
	if d.Type == "" {
		return "all"
	}
	minor := "*"
	if d.Minor != nil {
		minor = fmt.Sprint(*d.Minor)
	}
	return fmt.Sprintf("%s %d:%s %s", d.Type, *d.Major, minor, d.Access)
}

// strip takes the reasons away again.
func strip(annotated string) string {
	var out strings.Builder
	for line := range strings.Lines(annotated) {
		line = strings.TrimSuffix(line, "\n")
		if i := strings.Index(line, " // "); i >= 0 {
			line = line[:i]
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}
