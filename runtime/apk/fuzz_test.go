package apk

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// The files of testdata: signed.apk is by aapt, signed by apksigner with schemes 1, 2 and 3 and has resources with references; aapt2.apk is
// the same source by aapt2, not signed.
func seeds(f *testing.F) map[string][]byte {
	f.Helper()
	list := map[string][]byte{}
	paths, err := filepath.Glob("testdata/*.apk")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds in testdata: %v", err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		list[filepath.Base(path)] = b
	}
	return list
}

// entry unpacks an entry of a seed.
func entry(f *testing.F, b []byte, name string) []byte {
	f.Helper()
	a, err := openArchive(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		f.Fatal(err)
	}
	data, err := a.read(a.files[name], maxResources)
	if err != nil {
		f.Fatal(err)
	}
	return data
}

// classed fails for an error that is not of the class that Read promises.
func classed(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errdefs.IsInvalidArgument(err) {
		t.Errorf("not an invalid argument: %v", err)
	}
}

// sound checks what holds for every Info, whatever was read.
func sound(t *testing.T, info *Info) {
	t.Helper()
	if err := checkPackage(info.Package); err != nil {
		t.Error(err)
	}
	for _, text := range append([]string{info.VersionName, info.Label, info.Activity, info.SharedUserID}, info.Permissions...) {
		if len([]rune(text)) > maxText+maxName+1 || bytes.ContainsAny([]byte(text), "\n\x00\x1b\x7f") {
			t.Errorf("unsafe text %.200q", text)
		}
	}
	for _, split := range []string{info.Split, info.ConfigForSplit} {
		if bytes.ContainsAny([]byte(split), "/\x00 ") || split == ".." {
			t.Errorf("unsafe split %q", split)
		}
	}
}

func FuzzManifest(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(entry(f, b, manifestName))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := parseManifest(b, &lazyTable{read: true})
		classed(t, err)
		name, nameErr := packageOf(b)
		classed(t, nameErr)
		if err == nil {
			sound(t, info)
			if nameErr != nil || name != info.Package {
				t.Errorf("its name alone is %q, %v; with all else %q", name, nameErr, info.Package)
			}
		}
	})
}

func FuzzResources(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(entry(f, b, resourcesName), uint32(0x7f020000))
	}
	f.Fuzz(func(t *testing.T, b []byte, id uint32) {
		table, err := newTable(b)
		classed(t, err)
		if err != nil {
			return
		}
		for k := range uint32(8) {
			_, _, err = table.resolve(value{kind: kindReference, data: id + k})
			classed(t, err)
		}
	})
}

func FuzzSigningBlock(f *testing.F) {
	for _, b := range seeds(f) {
		a, err := openArchive(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			f.Fatal(err)
		}
		if size := int64(binary.LittleEndian.Uint64(b[a.directory-24:])); string(b[a.directory-16:a.directory]) == blockMagic {
			f.Add(b[a.directory-size-8 : a.directory])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		signers, err := readBlock(&archive{r: bytes.NewReader(b), size: int64(len(b)), directory: int64(len(b))})
		classed(t, err)
		if err != nil && signers != nil {
			t.Error("signers and an error")
		}
	})
}

func FuzzJARSignature(f *testing.F) {
	for _, b := range seeds(f) {
		a, err := openArchive(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			f.Fatal(err)
		}
		for name, file := range a.files {
			if isSignatureFile(name) {
				data, err := a.read(file, maxJARSignature)
				if err != nil {
					f.Fatal(err)
				}
				f.Add(data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c := signerCertificate(b); c != nil && !bytes.Contains(b, c) {
			t.Error("the certificate is not from the signature")
		}
	})
}

// FuzzApp puts a manifest and resources into an archive with the right checksums, so that the reader gets to them.
func FuzzApp(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(entry(f, b, manifestName), entry(f, b, resourcesName))
	}
	f.Fuzz(func(t *testing.T, manifest, resources []byte) {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		for name, data := range map[string][]byte{manifestName: manifest, resourcesName: resources} {
			e, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
			if err == nil {
				_, err = e.Write(data)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		info, err := Read(bytes.NewReader(b.Bytes()), int64(b.Len()))
		classed(t, err)
		if err == nil {
			sound(t, info)
		}
	})
}

func FuzzRead(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := Read(bytes.NewReader(b), int64(len(b)))
		classed(t, err)
		if err == nil {
			sound(t, info)
		}
	})
}
