package lab_test

import (
	"testing"
)

func TestVMRoots(t *testing.T) {
	l := openLab(t)
	for _, arch := range l.Architectures() {
		r, err := l.Root(t.Context(), arch)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(r)
	}
}
