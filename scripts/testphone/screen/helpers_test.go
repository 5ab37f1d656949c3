package screen

import (
	"image"
	"image/color"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/phonehost/phonehost/encoder/keymap"
	"github.com/phonehost/phonehost/scripts/testphone/paint"
)

// renameInto makes a listening socket visible under the name that the composer waits for.
func renameInto(dir string) error {
	return os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "wayland-0"))
}

// TestTextKeysAndWheel compares the lines at the bottom with those of a picture that got the same input.
func TestTextKeysAndWheel(t *testing.T) {
	p := newPhone(t, map[string]string{SceneProperty: "typing"})
	p.display(720, 1280, 60)
	p.composer()
	p.booted()
	if err := p.server.Text("Hello, World? 100%"); err != nil {
		t.Fatal(err)
	}
	if err := p.server.Key(116, true); err != nil {
		t.Fatal(err)
	}
	if err := p.server.Wheel(100, 100, 0, 3); err != nil {
		t.Fatal(err)
	}
	like, err := paint.New(paint.Config{Width: 720, Height: 1280})
	if err != nil {
		t.Fatal(err)
	}
	if err := like.SetScene("typing"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []byte("Hello, World? 100%") {
		like.Type(c)
	}
	keys := newKeyState()
	like.Key(keys.name(116))
	like.Wheel(3)
	like.Frame(time.Now())
	want := like.Canvas()
	p.see("text, key and wheel", func(img *image.RGBA) bool {
		for y := 1130; y < 1280; y++ {
			for x := range 720 {
				pix := want.Pix[y*720+x]
				if img.RGBAAt(x, y) != (color.RGBA{uint8(pix >> 16), uint8(pix >> 8), uint8(pix), 255}) {
					return false
				}
			}
		}
		return true
	})
}

func TestCharacters(t *testing.T) {
	for _, test := range []struct {
		title     string
		code      uint32
		modifiers uint32
		want      byte
	}{
		{"letter", 30, 0, 'a'},
		{"shifted letter", 30, keymap.Shift, 'A'},
		{"caps lock", 30, keymap.Lock, 'A'},
		{"caps lock and shift", 30, keymap.Lock | keymap.Shift, 'a'},
		{"digit with caps lock", 2, keymap.Lock, '1'},
		{"shifted digit", 2, keymap.Shift, '!'},
		{"control", 30, keymap.Control, 0},
		{"backspace", 14, 0, '\b'},
		{"return", 28, 0, '\n'},
		{"escape", 1, 0, 0},
		{"unknown", 9999, 0, 0},
	} {
		t.Run(test.title, func(t *testing.T) {
			k := newKeyState()
			k.modifiers = test.modifiers
			if got := k.character(test.code); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
