package keymap

import (
	"bytes"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv"
)

func TestKeysAreInOrderAndUnique(t *testing.T) {
	names, chars := map[string]bool{}, map[byte]bool{}
	last := uint32(0)
	for _, k := range Keys {
		if k.Code <= last || k.Code > MaxCode {
			t.Errorf("code %d after %d", k.Code, last)
		}
		last = k.Code
		if names[k.Name] || len(k.Name) > 4 || k.Name == "" {
			t.Errorf("key %d has name %q", k.Code, k.Name)
		}
		names[k.Name] = true
		for _, c := range []byte{k.ASCII, k.ShiftedASCII} {
			if c != 0 && chars[c] {
				t.Errorf("%q is on two keys", c)
			}
			chars[c] = true
		}
	}
}

func TestLookup(t *testing.T) {
	for r := rune(0); r < 256; r++ {
		want := r == '\t' || r == '\n' || (r >= ' ' && r <= '~')
		if _, ok := Lookup(r); ok != want {
			t.Errorf("Lookup(%q) says %v, want %v", r, ok, want)
		}
	}
	if _, ok := Lookup(-1); ok {
		t.Error("Lookup(-1) is on a key")
	}
	for r, want := range map[rune]Stroke{
		'a': {Code: 30, Letter: true}, 'A': {Code: 30, Shift: true, Letter: true},
		'1': {Code: 2}, '!': {Code: 2, Shift: true}, '\n': {Code: 28}, '~': {Code: 41, Shift: true},
	} {
		if got, _ := Lookup(r); got != want {
			t.Errorf("Lookup(%q) = %+v, want %+v", r, got, want)
		}
	}
}

func TestModifier(t *testing.T) {
	for code, want := range map[uint32][2]uint32{42: {Shift, 0}, 54: {Shift, 0}, 29: {Control, 0}, 100: {Alt, 0}, 125: {Super, 0},
		58: {0, Lock}, 69: {0, Num}, 30: {0, 0}} {
		if held, locked := Modifier(code); held != want[0] || locked != want[1] {
			t.Errorf("Modifier(%d) = %d, %d, want %v", code, held, locked, want)
		}
	}
}

// compile has libxkbcommon compile a keymap and returns what it makes of it.
func compile(t *testing.T, text string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "xkbcli"), append([]string{"compile-keymap"}, args...)...)
	cmd.Stdin = strings.NewReader(text)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	// With --from-xkb the program of libxkbcommon 1.5 exits with 1 on success; what it prints is what counts.
	if err := cmd.Run(); !strings.Contains(out.String(), "xkb_symbols") {
		t.Fatalf("xkbcli: %v\n%s", err, errs.String())
	}
	for line := range strings.Lines(errs.String()) {
		if strings.Contains(line, "ERROR") || (strings.Contains(line, "WARNING") && !strings.Contains(line, "No map in include statement")) {
			t.Errorf("xkbcli says %s", line)
		}
	}
	return out.String()
}

// symbols returns the first two symbols of every key of a compiled keymap by evdev code, and its modifier map.
func symbols(t *testing.T, keymap string) (keys map[uint32][2]string, mods string) {
	t.Helper()
	codes := map[string]uint32{}
	for _, m := range regexp.MustCompile(`<([^>]+)>\s*= (\d+);`).FindAllStringSubmatch(keymap, -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		codes[m[1]] = uint32(n - 8)
	}
	keys = map[uint32][2]string{}
	for _, m := range regexp.MustCompile(`(?s)key <([^>]+)>\s*\{.*?\[\s*([^\]\[]+?)\s*\]\s*\n?\s*\};`).FindAllStringSubmatch(keymap, -1) {
		list := regexp.MustCompile(`\s*,\s*`).Split(m[2], -1)
		pair := [2]string{list[0], list[0]}
		if len(list) > 1 {
			pair[1] = list[1]
		}
		keys[codes[m[1]]] = pair
	}
	return keys, strings.Join(regexp.MustCompile(`modifier_map .*;`).FindAllString(keymap, -1), "\n")
}

// TestCompiles has libxkbcommon compile the keymap, and checks that every key gives the symbols of the table.
func TestCompiles(t *testing.T) {
	keys, mods := symbols(t, compile(t, XKB(), "--verbose", "--from-xkb"))
	for _, k := range Keys {
		want := [2]string{k.Plain, k.Shifted}
		if k.Shifted == "" {
			want[1] = k.Plain
		}
		if got := keys[k.Code]; got != want {
			t.Errorf("key %d <%s> gives %v, want %v", k.Code, k.Name, got, want)
		}
	}
	for _, want := range []string{"Shift { <LFSH>, <RTSH> }", "Lock { <CAPS> }", "Control { <LCTL>, <RCTL> }", "Mod1 { <LALT>, <RALT> }",
		"Mod2 { <NMLK> }", "Mod4 { <LWIN>, <RWIN> }"} {
		if !strings.Contains(mods, want) {
			t.Errorf("modifier map lacks %s:\n%s", want, mods)
		}
	}
}

// TestAgreesWithTheUSLayout compares every key that types a character with Debian's own US layout.
func TestAgreesWithTheUSLayout(t *testing.T) {
	keys, _ := symbols(t, compile(t, "", "--layout", "us"))
	for _, k := range Keys {
		if k.ASCII == 0 {
			continue
		}
		got := keys[k.Code]
		if got[0] != k.Plain || (k.Shifted != "" && got[1] != k.Shifted) {
			t.Errorf("key %d is %v in Debian's layout, %q %q here", k.Code, got, k.Plain, k.Shifted)
		}
	}
}
