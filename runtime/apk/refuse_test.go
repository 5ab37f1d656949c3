package apk_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/runtime/apk"
	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// small returns an APK that Read takes.
func small(t *testing.T) []byte {
	t.Helper()
	key, err := apkmake.NewKey("test")
	if err != nil {
		t.Fatal(err)
	}
	b, err := apkmake.Make(apkmake.App{Package: "com.example.small", VersionCode: 1, Label: "Small", MinSDK: 24, Activities: []string{".Main"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// archive writes a zip archive of the entries, of name and text in turn.
func archive(t *testing.T, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		f, err := w.Create(entries[i])
		if err == nil {
			_, err = io.WriteString(f, entries[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// patch changes bytes of a copy of b, in the last place where magic is found, at an offset from it.
func patch(t *testing.T, b []byte, magic string, offset int, change ...byte) []byte {
	t.Helper()
	at := bytes.LastIndex(b, []byte(magic))
	if at < 0 {
		t.Fatalf("%q is not there", magic)
	}
	b = bytes.Clone(b)
	copy(b[at+offset:], change)
	return b
}

const (
	endRecord  = "PK\x05\x06"
	dirEntry   = "PK\x01\x02"
	blockMagic = "APK Sig Block 42"
)

func le(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

func TestWhatIsNotAnAPK(t *testing.T) {
	good := small(t)
	comment := append(bytes.Clone(good), "x"...)
	for name, test := range map[string]struct {
		data []byte
		want string // in the error
	}{
		"nothing":         {nil, "the file is empty"},
		"text":            {[]byte("hello there"), `a text that begins with "hello there"`},
		"web page":        {[]byte("<!doctype HTML><html>Not found"), "HTML page"},
		"program":         {[]byte("\x7fELF\x02\x01"), "ELF program"},
		"gzip":            {[]byte("\x1f\x8b\x08\x00"), "gzip file"},
		"dex":             {[]byte("dex\n035\x00"), "DEX file"},
		"manifest":        {[]byte("\x03\x00\x08\x00\x00\x00"), "without its APK"},
		"bytes":           {[]byte{1, 2, 3}, "begins with the bytes 010203"},
		"cut off":         {good[:len(good)-5], "cut off"},
		"cut off early":   {good[:100], "cut off"},
		"bytes after":     {comment, "bytes after its end"},
		"empty zip":       {archive(t), "empty zip archive"},
		"other zip":       {archive(t, "a.txt", "x"), "a zip archive with 1 entries, not an APK"},
		"folder":          {archive(t, "app/AndroidManifest.xml", "x"), "not the folder"},
		"jar":             {archive(t, "META-INF/MANIFEST.MF", "x", "A.class", "x"), "Java archive"},
		"aab":             {archive(t, "BundleConfig.pb", "x", "base/manifest/AndroidManifest.xml", "x"), "App Bundle"},
		"apks":            {archive(t, "toc.pb", "x", "splits/base-master.apk", "x"), "bundletool made"},
		"apks by hand":    {archive(t, "base.apk", "x", "config.apk", "x"), "an archive with 2 APKs"},
		"xapk":            {archive(t, "manifest.json", "{}", "base.apk", "x"), "an .xapk with 1 APKs"},
		"apkm":            {archive(t, "info.json", "{}", "base.apk", "x"), "an .apkm with 1 APKs"},
		"office":          {archive(t, "[Content_Types].xml", "x"), "office document"},
		"text manifest":   {archive(t, "AndroidManifest.xml", "<?xml version=\"1.0\"?><manifest/>"), "plain text"},
		"bundle manifest": {archive(t, "AndroidManifest.xml", "\x0a\x10http://schemas.android.com/apk"), "App Bundle"},
		"empty manifest":  {archive(t, "AndroidManifest.xml", ""), "the manifest is empty"},
		"junk manifest":   {archive(t, "AndroidManifest.xml", "\x03\x00\x08\x00\xff\xff\xff\xff"), "a chunk says"},
		"twice":           {archive(t, "AndroidManifest.xml", "x", "AndroidManifest.xml", "y"), "two entries named"},
		"encrypted":       {patch(t, good, dirEntry, 8, 1), "is encrypted"},
		"unknown method":  {patch(t, good, dirEntry, 10, 12), "compressed by method 12"},
		"checksum":        {patch(t, good, dirEntry, 16, 0, 0), "checksum of AndroidManifest.xml is wrong"},
		"zip64 entry":     {patch(t, good, dirEntry, 20, 0xff, 0xff, 0xff, 0xff), "is zip64"},
		"zip64":           {patch(t, good, endRecord, 16, 0xff, 0xff, 0xff, 0xff), "zip64"},
		"several parts":   {patch(t, good, endRecord, 4, 1), "one part of several"},
		"too many":        {patch(t, good, endRecord, 8, 9, 0, 9, 0), "ends after 1 of 9 entries"},
		"directory":       {patch(t, good, endRecord, 16, 0xf0, 0xff, 0xff, 0x7f), "ends after the end record"},
		"large directory": {patch(t, good, endRecord, 12, 0, 0, 0, 0), "lie between its directory and the end record"},
		"outside":         {patch(t, good, dirEntry, 42, 0xf0, 0xff, 0xff, 0x7f), "reaches past the directory"},
		"long name":       {patch(t, good, dirEntry, 28, 0xff, 0xff), "entry 1 of its directory is cut off"},
		"header":          {patch(t, good, "PK\x03\x04", 26, 7), "disagree"},
		"block size":      {patch(t, good, blockMagic, -8, 0xff, 0xff), "APK Signing Block is damaged"},
		"block head":      {patch(t, good, blockMagic, -8, 200, 0, 0, 0), "APK Signing Block is damaged"},
		"block entry":     {patch(t, good, "\x1a\x87\x09\x71", -8, 1, 0, 0, 0), "entry 0x7109871a says that it has 1 bytes"},
		"block signer":    {patch(t, good, "\x1a\x87\x09\x71", 4, 0xff, 0xff), "the signature of scheme v2 is not in order"},
	} {
		t.Run(name, func(t *testing.T) {
			info, err := apk.Read(bytes.NewReader(test.data), int64(len(test.data)))
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Read = %v, %v; want an invalid argument with %q", info, err, test.want)
			}
		})
	}
}

// TestOverlap gives two entries the same data, as archives do that unpack to more than could be sent.
func TestOverlap(t *testing.T) {
	b := archive(t, "AndroidManifest.xml", strings.Repeat("x", 100), "b", "y")
	at := bytes.LastIndex(b, []byte(dirEntry))
	copy(b[at+42:], le(20))
	if _, err := apk.Read(bytes.NewReader(b), int64(len(b))); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "overlap") {
		t.Errorf("Read = %v", err)
	}
}

// TestZipBomb unpacks what is larger than it says, and what says that it is large.
func TestZipBomb(t *testing.T) {
	b := archive(t, "AndroidManifest.xml", strings.Repeat("\x00", 64<<20))
	if len(b) > 1<<20 {
		t.Fatalf("the archive has %d bytes", len(b))
	}
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"honest":    {b, "more than 8388608"},
		"dishonest": {patch(t, b, dirEntry, 24, 0, 1, 0, 0), "does not have the 256 bytes"},
		"boastful":  {patch(t, small(t), dirEntry, 24, 0, 0, 0x70, 0), "cannot have 7"},
		"short":     {patch(t, small(t), dirEntry, 24, 0, 0x20, 0, 0), "does not have the 8192 bytes"},
	} {
		if _, err := apk.Read(bytes.NewReader(test.data), int64(len(test.data))); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// broken is a reader that fails.
type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, os.ErrPermission }

func TestErrorsOfTheReaderStay(t *testing.T) {
	if _, err := apk.Read(broken{}, 1000); !errors.Is(err, os.ErrPermission) || errdefs.IsInvalidArgument(err) {
		t.Errorf("Read = %v", err)
	}
	b := small(t)
	if _, err := apk.Read(bytes.NewReader(b), int64(len(b))+1000); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a file shorter than it was said: %v", err)
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"com.example": true, "android": true, "a.b_c.D9": true, "example": false, "": false, "com..example": false, ".com.example": false,
		"com.9example": false, "com.ex-ample": false, "com.example/../x": false, "com.example ": false, "com._x": false, "com.exämple": false,
		strings.Repeat("a", 112) + "." + strings.Repeat("b", 110): true, strings.Repeat("a", 112) + "." + strings.Repeat("b", 111): false,
	} {
		b, err := apkmake.Make(apkmake.App{Package: name, VersionCode: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := apk.Read(bytes.NewReader(b), int64(len(b))); (err == nil) != ok {
			t.Errorf("package %q: %v", name, err)
		}
	}
	for split, ok := range map[string]bool{"config.de": true, "config.arm64_v8a": true, "a-b": true, "../x": false, "a/b": false, ".hidden": false, "a b": false} {
		b, err := apkmake.Make(apkmake.App{Package: "com.example", VersionCode: 1, Split: split})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := apk.Read(bytes.NewReader(b), int64(len(b))); (err == nil) != ok {
			t.Errorf("split %q: %v", split, err)
		}
	}
}

// TestTextIsSafe has a label that would do something to a terminal.
func TestTextIsSafe(t *testing.T) {
	b, err := apkmake.Make(apkmake.App{Package: "com.example", Label: " \x1b[2J\x07two\nlines\u202e" + strings.Repeat("ü", 2000), VersionName: "1\t2"})
	if err != nil {
		t.Fatal(err)
	}
	info, err := apk.Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if got := []rune(info.Label); len(got) > 1000 || !strings.HasPrefix(info.Label, "[2Jtwo linesüü") || info.VersionName != "1 2" {
		t.Errorf("label %d characters, %.40q; version %q", len(got), info.Label, info.VersionName)
	}
}
