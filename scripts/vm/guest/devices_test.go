package guest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestFindByAttribute(t *testing.T) {
	class := t.TempDir()
	for name, text := range map[string]string{
		"vda/serial": "root", "vdb/serial": "payload\n", "vdc/serial": "modules\x00\x00", "vdd/other": "lost", "vde/serial": "root-2\n", "vdf/serial": "",
	} {
		file := filepath.Join(class, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(class, "vdg")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(class, "vdh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("gone", filepath.Join(class, "vdh", "serial")); err != nil { // it goes away while we look
		t.Fatal(err)
	}
	for value, want := range map[string]string{"root": "vda", "payload": "vdb", "modules": "vdc", "lost": "", "roo": "", "none": ""} {
		if got, err := findByAttribute(class, "serial", value); got != want || err != nil {
			t.Errorf("%q is %q, %v, want %q", value, got, err, want)
		}
	}
	if got, err := findByAttribute(filepath.Join(class, "none"), "serial", "root"); got != "" || err != nil {
		t.Errorf("in a class that is not there: %q, %v", got, err)
	}
}

func TestWaitForFinds(t *testing.T) {
	if got, err := waitFor(t.Context(), "x", func() (string, error) { return "there", nil }); got != "there" || err != nil {
		t.Errorf("what is there: %q, %v", got, err)
	}
	broken := errors.New("broken")
	if got, err := waitFor(t.Context(), "x", func() (string, error) { return "", broken }); got != "" || !errors.Is(err, broken) {
		t.Errorf("what cannot be looked for: %q, %v", got, err)
	}
}
