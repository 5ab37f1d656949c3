package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv"
)

const small = `<?xml version="1.0"?>
<protocol name="small">
  <interface name="a_thing" version="3">
    <description summary="a thing"/>
    <request name="make"><arg name="id" type="new_id"/><arg name="peer" type="object" interface="b_thing" allow-null="true"/></request>
    <request name="end" type="destructor" since="2"/>
    <event name="told"><arg name="fd" type="fd"/></event>
    <enum name="error"><entry name="bad_idea" value="0x10" summary="a bad
      idea"/></enum>
  </interface>
</protocol>`

func TestGenerate(t *testing.T) {
	src, err := generate("small.xml", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`var AThing = &wire.Interface{`, `Version: 3,`,
		`{Name: "interface", Kind: wire.KindString},`, `{Name: "version", Kind: wire.KindUint},`, `{Name: "id", Kind: wire.KindNewID},`,
		`{Name: "peer", Kind: wire.KindObject, Interface: "b_thing", Nullable: true},`,
		`{Interface: "a_thing", Name: "end", Opcode: 1, Since: 2, Destructor: true},`,
		`{Name: "fd", Kind: wire.KindFD},`,
		`AThingRequestEnd  = 1`, `AThingEventTold = 0`, `AThingErrorBadIdea = 0x10 // a bad idea`,
	} {
		if !bytes.Contains(src, []byte(want)) {
			t.Errorf("no %s in\n%s", want, src)
		}
	}
	again, err := generate("small.xml", []byte(small))
	if err != nil || !bytes.Equal(src, again) {
		t.Errorf("a second run differs (%v)", err)
	}
}

func TestGenerateRefuses(t *testing.T) {
	tests := map[string]string{
		"not XML":             "hello",
		"no interfaces":       `<protocol name="x"></protocol>`,
		"no version":          strings.Replace(small, `version="3"`, ``, 1),
		"since above version": strings.Replace(small, `since="2"`, `since="9"`, 1),
		"unknown type":        strings.Replace(small, `type="fd"`, `type="float"`, 1),
	}
	for name, doc := range tests {
		t.Run(name, func(t *testing.T) {
			if src, err := generate("x.xml", []byte(doc)); err == nil {
				t.Errorf("made %s", src)
			}
		})
	}
}

// TestCommittedTablesAreUpToDate generates the tables anew where Debian's descriptions are installed.
func TestCommittedTablesAreUpToDate(t *testing.T) {
	testenv.Tool(t, "wayland-scanner") // comes with the descriptions
	const protocols = "/usr/share/wayland-protocols/stable/"
	for _, in := range []string{"/usr/share/wayland/wayland.xml", protocols + "xdg-shell/xdg-shell.xml",
		protocols + "viewporter/viewporter.xml", protocols + "presentation-time/presentation-time.xml"} {
		t.Run(filepath.Base(in), func(t *testing.T) {
			dir := t.TempDir()
			if err := run(dir, []string{in}); err != nil {
				t.Fatal(err)
			}
			files, err := os.ReadDir(dir)
			if err != nil || len(files) != 1 {
				t.Fatalf("wrote %v, %v", files, err)
			}
			got, err := os.ReadFile(filepath.Join(dir, files[0].Name()))
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join("..", "..", "protocol", files[0].Name()))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s is out of date: run go generate in encoder/wayland/protocol (%v)", files[0].Name(), err)
			}
		})
	}
}

func TestRunNamesTheMissingPackages(t *testing.T) {
	if err := run(t.TempDir(), []string{"/nonexistent.xml"}); err == nil || !strings.Contains(err.Error(), "libwayland-dev") {
		t.Errorf("got %v", err)
	}
}
