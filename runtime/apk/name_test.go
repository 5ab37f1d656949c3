package apk

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestReadName reads the names of what aapt and aapt2 have made, as Read does.
func TestReadName(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.apk")
	if err != nil || len(paths) == 0 {
		t.Fatalf("nothing in testdata: %v", err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if name, err := ReadName(bytes.NewReader(b), int64(len(b))); err != nil || name != info.Package {
			t.Errorf("%s: %q, %v; want %q", path, name, err, info.Package)
		}
		_, err = ReadName(bytes.NewReader(b[:len(b)-1]), int64(len(b)-1))
		refused(t, err, "archive")
	}
}

// TestNameRefuses wants errors for manifests without a name that Android takes.
func TestNameRefuses(t *testing.T) {
	pool := stringPool(slices.Concat(text8("manifest"), text8("package"), text8("one"), text8("other")), 0, 13, 25, 33)
	for want, b := range map[string][]byte{
		"no element <manifest>": piece(chunkXML, nil, pool),
		"first element":         piece(chunkXML, nil, slices.Concat(pool, tag(3))),
		"at least two parts":    piece(chunkXML, nil, slices.Concat(pool, named(0, 1, 2))),
		"is plain text":         []byte("<manifest package='com.example'/>"),
	} {
		_, err := packageOf(b)
		refused(t, err, want)
	}
}
