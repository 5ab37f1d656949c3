package benchframes

import (
	"bytes"
	"testing"
)

func TestFramesAreTheSameEachTime(t *testing.T) {
	for _, kind := range Kinds {
		t.Run(string(kind), func(t *testing.T) {
			var frames [2][3][]byte
			for run := range frames {
				s, err := New(kind, 200, 320, 7)
				if err != nil {
					t.Fatal(err)
				}
				for i := range frames[run] {
					frames[run][i] = make([]byte, s.Size())
					s.Draw(i*4, frames[run][i])
				}
			}
			for i := range frames[0] {
				if !bytes.Equal(frames[0][i], frames[1][i]) {
					t.Errorf("frame %d differs between two runs", i)
				}
			}
			if same := bytes.Equal(frames[0][0], frames[0][1]); same != (kind == Still) {
				t.Errorf("two frames are equal: %v", same)
			}
		})
	}
	if _, err := New("film", 10, 10, 1); err == nil {
		t.Error("an unknown kind was taken")
	}
}
