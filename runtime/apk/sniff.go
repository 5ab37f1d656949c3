package apk

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"
)

// hints is what the names of an archive's entries tell about it.
type hints struct {
	entries  int
	bundle   bool   // an Android App Bundle
	sets     bool   // bundletool's output
	xapk     bool   // manifest.json
	apkm     bool   // info.json
	apks     int    // APK files in it
	classes  bool   // Java classes
	moved    string // a manifest that is not at the top
	document bool   // an office document
}

func (h *hints) see(name string) {
	h.entries++
	switch {
	case name == "BundleConfig.pb", name == "base/manifest/AndroidManifest.xml":
		h.bundle = true
	case name == "toc.pb":
		h.sets = true
	case name == "manifest.json":
		h.xapk = true
	case name == "info.json":
		h.apkm = true
	case name == "[Content_Types].xml":
		h.document = true
	case strings.HasSuffix(name, ".apk"):
		h.apks++
	case strings.HasSuffix(name, ".class"):
		h.classes = true
	case h.moved == "" && strings.HasSuffix(name, "/"+manifestName):
		h.moved = name
	}
}

// withoutManifest says what a zip archive without AndroidManifest.xml is.
func withoutManifest(a *archive) error {
	h := a.hints
	const install = "unpack it and install the base APK and the splits that fit the phone, together"
	switch {
	case h.bundle:
		return invalid("this is an Android App Bundle (.aab), which is not installable: make APKs of it (bundletool build-apks --mode=universal)")
	case h.sets && h.apks > 0:
		return invalid("this is a set of %d APKs that bundletool made (.apks): %s (bundletool extract-apks chooses them)", h.apks, install)
	case h.xapk && h.apks > 0:
		return invalid("this is an .xapk with %d APKs in it: %s", h.apks, install)
	case h.apkm && h.apks > 0:
		return invalid("this is an .apkm with %d APKs in it: %s", h.apks, install)
	case h.apks > 0:
		return invalid("this is an archive with %d APKs in it (.apks): %s", h.apks, install)
	case h.document:
		return invalid("this is an office document, not an APK")
	case h.moved != "":
		return invalid("this zip archive has no AndroidManifest.xml at its top, only %.100q: pack the contents of that folder, not the folder", h.moved)
	case h.classes:
		return invalid("this is a Java archive, not an APK: it has no AndroidManifest.xml")
	case h.entries == 0:
		return invalid("this is an empty zip archive, not an APK")
	}
	return invalid("this is a zip archive with %d entries, not an APK: it has no AndroidManifest.xml", h.entries)
}

// magics are the beginnings of files that people take for APKs.
var magics = []struct{ magic, what string }{
	{"\x7fELF", "an ELF program or library"},
	{"dex\n", "a DEX file: it belongs into an APK"},
	{"\x1f\x8b", "a gzip file: unpack it first"},
	{"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"},
	{"Rar!", "a RAR archive: unpack it first"},
	{"\xfd7zXZ", "an xz file: unpack it first"},
	{"\x28\xb5\x2f\xfd", "a zstd file: unpack it first"},
	{"\x89PNG", "a PNG picture"},
	{"\xff\xd8\xff", "a JPEG picture"},
	{"%PDF", "a PDF document"},
	{"MZ", "a Windows program"},
	{"\x3a\xff\x26\xed", "a sparse Android image"},
	{"ANDROID!", "an Android boot image"},
	{"\x03\x00\x08\x00", "a compiled AndroidManifest.xml without its APK"},
	{"<?xml", "an XML text"},
	{"<!DOCTYPE html", "an HTML page, perhaps the error of a download"},
	{"<html", "an HTML page, perhaps the error of a download"},
}

// notZip says what a file without a zip's end record is.
func (a *archive) notZip() error {
	head := make([]byte, min(a.size, 512))
	if err := a.readAt(head, 0); err != nil {
		return err
	}
	switch {
	case a.size == 0:
		return invalid("the file is empty")
	case len(head) >= 4 && binary.LittleEndian.Uint32(head) == localSignature:
		return invalid("the archive is cut off, or has bytes after its end: it begins as a zip file of which the end record is not the end of its %d bytes", a.size)
	}
	for _, m := range magics {
		if len(head) >= len(m.magic) && strings.EqualFold(string(head[:len(m.magic)]), m.magic) {
			return invalid("this is not an APK but %s", m.what)
		}
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return invalid("this is not an APK but a tar archive: unpack it first")
	}
	if isText(head) {
		return invalid("this is not an APK but a text that begins with %.60q", head)
	}
	return invalid("this is not an APK: it is no zip archive, and begins with the bytes %x", head[:min(len(head), 8)])
}

// isText says whether a beginning of a file is text.
func isText(head []byte) bool {
	for len(head) > 0 {
		r, n := utf8.DecodeRune(head)
		if r == utf8.RuneError && n == 1 {
			return len(head) < utf8.UTFMax // a character cut off
		}
		if unicode.IsControl(r) && !unicode.IsSpace(r) {
			return false
		}
		head = head[n:]
	}
	return true
}

// notBinary says what a manifest is that is not in the binary form, nil if it may be that.
func notBinary(b []byte) error {
	text := bytes.TrimLeft(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), " \t\r\n")
	switch {
	case len(b) == 0:
		return invalid("the manifest is empty")
	case bytes.HasPrefix(text, []byte("<")):
		return invalid("the manifest is plain text, as in an app's source or unpacked APK: build the app (aapt2, Gradle or apktool compile it)")
	case b[0] == 0x0a && bytes.Contains(b[:min(len(b), 256)], []byte("http://schemas.android.com/")):
		return invalid("the manifest is in the form of an Android App Bundle: make APKs of it with bundletool")
	}
	return nil
}
