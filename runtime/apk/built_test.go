package apk_test

import (
	"archive/zip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/runtime/apk"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// project is the source of an APK that aapt or aapt2 builds.
type project struct {
	manifest string
	files    map[string]string // below the project's directory: res/values/strings.xml
	aapt2    bool
	args     []string // more of them for aapt, or for aapt2 link
}

const emptyManifest = `<manifest xmlns:android="http://schemas.android.com/apk/res/android" package="com.example.built" `

// build returns the path of an unsigned APK.
func (p project) build(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat(frameworkAPK); err != nil {
		testenv.Missing(t, "android-framework-res", err.Error())
	}
	dir := t.TempDir()
	out := filepath.Join(dir, "out.apk")
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("AndroidManifest.xml", p.manifest)
	for name, text := range p.files {
		write(name, text)
	}
	manifest, res := filepath.Join(dir, "AndroidManifest.xml"), filepath.Join(dir, "res")
	if p.aapt2 {
		args := []string{"link", "-I", frameworkAPK, "--manifest", manifest, "-o", out}
		if len(p.files) > 0 {
			tool(t, "aapt2", "compile", "--dir", res, "-o", filepath.Join(dir, "res.zip"))
			args = append(args, filepath.Join(dir, "res.zip"))
		}
		tool(t, "aapt2", append(args, p.args...)...)
		return out
	}
	args := []string{"package", "-M", manifest, "-I", frameworkAPK, "-F", out}
	if len(p.files) > 0 {
		args = append(args, "-S", res)
	}
	tool(t, "aapt", append(args, p.args...)...)
	return out
}

func values(text string) string { return "<resources>" + text + "</resources>" }

// TestBuiltAPKs reads what aapt and aapt2 make of cases that the real APKs do not have.
func TestBuiltAPKs(t *testing.T) {
	byReference := emptyManifest + `android:versionCode="77" android:versionName="@string/version">
		<uses-sdk android:minSdkVersion="21" android:targetSdkVersion="30"/>
		<application android:label="@string/alias" android:debuggable="@bool/yes" android:hasCode="false"/></manifest>`
	resources := map[string]string{
		"res/values/all.xml": values(`<string name="alias">@string/real</string><string name="real">Real größer 😀</string>` +
			`<string name="version">1.2-ref</string><integer name="code">77</integer><bool name="yes">true</bool>`),
		"res/values-de/all.xml":      values(`<string name="real">Deutsch</string>`),
		"res/values-en/all.xml":      values(`<string name="real">English</string>`),
		"res/values-land/all.xml":    values(`<string name="real">Landscape</string>`),
		"res/values-v24/all.xml":     values(`<string name="real">Newer</string><integer name="code">78</integer>`),
		"res/values-b+sr+Latn/s.xml": values(`<string name="real">Srpski</string>`),
	}
	launchers := emptyManifest + `android:versionCode="1" android:sharedUserId="com.example.shared"><application android:hasCode="false" android:label="Launchers">
		<activity android:name=".Plain"/>
		<activity android:name="Off" android:enabled="false"><intent-filter><action android:name="android.intent.action.MAIN"/>
			<category android:name="android.intent.category.LAUNCHER"/></intent-filter></activity>
		<activity android:name=".Main"><intent-filter><action android:name="android.intent.action.MAIN"/></intent-filter>
			<intent-filter><category android:name="android.intent.category.LAUNCHER"/></intent-filter></activity>
		<activity-alias android:name="org.other.Alias" android:targetActivity=".Main"><intent-filter><action android:name="android.intent.action.MAIN"/>
			<category android:name="android.intent.category.DEFAULT"/><category android:name="android.intent.category.LAUNCHER"/></intent-filter></activity-alias>
		</application></manifest>`
	for name, test := range map[string]struct {
		project
		check func(*apk.Info) bool
		other bool // aapt is of another opinion, which is checked
	}{
		"references":        {project: project{manifest: byReference, files: resources}, check: func(i *apk.Info) bool { return i.Label == "Newer" && i.Debuggable }},
		"references utf16":  {project: project{manifest: byReference, files: resources, args: []string{"--utf16"}}, check: func(i *apk.Info) bool { return i.VersionName == "1.2-ref" }},
		"references aapt2":  {project: project{manifest: byReference, files: resources, aapt2: true}, check: func(i *apk.Info) bool { return i.Label == "Newer" }},
		"references sparse": {project: project{manifest: byReference, files: resources, aapt2: true, args: []string{"--enable-sparse-encoding", "--min-sdk-version", "26"}}, check: func(i *apk.Info) bool { return i.Label == "Newer" && i.TargetSDK == 30 }},
		"version by reference": {other: true, project: project{manifest: emptyManifest + `android:versionCode="@integer/code"/>`, files: resources},
			check: func(i *apk.Info) bool { return i.VersionCode == 78 }},
		"no default": {other: true, project: project{manifest: emptyManifest + `><application android:label="@string/l" android:hasCode="false"/></manifest>`,
			files: map[string]string{"res/values-de/s.xml": values(`<string name="l">Deutsch</string>`), "res/values-en/s.xml": values(`<string name="l">English</string>`)}},
			check: func(i *apk.Info) bool { return i.Label == "English" }},
		"framework label": {project: project{manifest: emptyManifest + `><application android:label="@android:string/ok" android:hasCode="false"/></manifest>`},
			check: func(i *apk.Info) bool { return i.Label == "" }},
		"launchers": {project: project{manifest: launchers}, other: true, check: func(i *apk.Info) bool {
			return i.Activity == "org.other.Alias" && i.SharedUserID == "com.example.shared" &&
				slices.Equal(i.Activities, []string{"com.example.built.Plain", "com.example.built.Off", "com.example.built.Main", "org.other.Alias"})
		}},
		"preview": {project: project{manifest: emptyManifest + `><uses-sdk android:minSdkVersion="Tiramisu"/></manifest>`},
			check: func(i *apk.Info) bool {
				return i.MinSDK == 0 && i.MinSDKPreview == "Tiramisu" && i.TargetSDKPreview == "Tiramisu"
			}},
		"major version": {project: project{manifest: emptyManifest + `android:versionCode="-1" android:versionCodeMajor="1"/>`}, other: true,
			check: func(i *apk.Info) bool { return i.VersionCode == 1<<32|0xffffffff }},
		"test only": {project: project{manifest: emptyManifest + `><application android:testOnly="true" android:hasCode="false"/></manifest>`},
			check: func(i *apk.Info) bool { return i.TestOnly }},
		"two applications": {project: project{manifest: emptyManifest + `><application android:label="First" android:hasCode="false"/>
			<application android:label="Second" android:debuggable="true" android:hasCode="false"><activity android:name=".A"/></application></manifest>`}, other: true,
			check: func(i *apk.Info) bool { return i.Label == "First" && !i.Debuggable && len(i.Activities) == 0 }},
		"config split": {project: project{manifest: emptyManifest + `split="config.de" configForSplit="feature"><application android:hasCode="false"/></manifest>`},
			check: func(i *apk.Info) bool { return i.Split == "config.de" && i.ConfigForSplit == "feature" && !i.Base() }},
		"feature split": {project: project{manifest: emptyManifest + `split="feature" android:isFeatureSplit="true"><application android:hasCode="false"/></manifest>`},
			check: func(i *apk.Info) bool { return i.FeatureSplit }},
		"base with splits": {project: project{manifest: emptyManifest + `android:isSplitRequired="true"/>`},
			check: func(i *apk.Info) bool { return i.RequiresSplits && i.Base() }},
	} {
		t.Run(name, func(t *testing.T) {
			path := test.build(t)
			info := readFile(t, path)
			if !test.other {
				info = sameAsAapt(t, path)
			}
			if !test.check(info) {
				t.Errorf("read %+v", info)
			}
		})
	}
}

// TestNativeCode adds libraries.
func TestNativeCode(t *testing.T) {
	path := project{manifest: emptyManifest + `/>`}.build(t)
	dir := t.TempDir()
	var names []string
	for _, name := range []string{"lib/arm64-v8a/libx.so", "lib/arm64-v8a/liby.so", "lib/x86_64/libx.so", "lib/armeabi-v7a/libx.so"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	t.Chdir(dir)
	tool(t, "aapt", append([]string{"add", path}, names...)...)
	if info := sameAsAapt(t, path); !slices.Equal(info.ABIs, []string{"arm64-v8a", "armeabi-v7a", "x86_64"}) {
		t.Errorf("ABIs %v", info.ABIs)
	}
}

// TestSignatures has apksigner sign in every way that it knows, with keys of several kinds.
func TestSignatures(t *testing.T) {
	unsigned := project{manifest: emptyManifest + `><uses-sdk android:minSdkVersion="18"/></manifest>`}.build(t)
	keys := t.TempDir()
	for name, algorithm := range map[string][]string{
		"rsa": {"rsa:2048"}, "rsa2": {"rsa:2048"}, "ec": {"ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"},
	} {
		pem := filepath.Join(keys, name+".key")
		args := append([]string{"req", "-x509", "-nodes", "-days", "1000", "-subj", "/O=Test/CN=" + name, "-keyout", pem, "-out", filepath.Join(keys, name+".pem"), "-newkey"}, algorithm...)
		tool(t, "openssl", args...)
		tool(t, "openssl", "pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in", pem, "-out", filepath.Join(keys, name+".pk8"))
	}
	by := func(name string) []string {
		return []string{"--key", filepath.Join(keys, name+".pk8"), "--cert", filepath.Join(keys, name+".pem")}
	}
	enabled := func(schemes string) (args []string) {
		for _, v := range []string{"1", "2", "3", "4"} {
			args = append(args, "--v"+v+"-signing-enabled", map[bool]string{true: "true", false: "false"}[strings.Contains(schemes, v)])
		}
		return args
	}
	lineage := filepath.Join(keys, "lineage")
	tool(t, "apksigner", slices.Concat([]string{"rotate", "--out", lineage, "--old-signer"}, by("rsa"), []string{"--new-signer"}, by("rsa2"))...)
	for name, test := range map[string]struct {
		args    []string
		schemes []apk.Scheme
		signers int
		level   int // of the Android that apksigner verifies for, 0 if it cannot
	}{
		"v1":         {slices.Concat(enabled("1"), by("rsa")), []apk.Scheme{apk.SchemeV1}, 1, 18},
		"v1 ec":      {slices.Concat(enabled("1"), by("ec")), []apk.Scheme{apk.SchemeV1}, 1, 18},
		"v2":         {slices.Concat(enabled("2"), by("rsa"), []string{"--min-sdk-version", "24"}), []apk.Scheme{apk.SchemeV2}, 1, 24},
		"v1 v2":      {slices.Concat(enabled("12"), by("ec")), []apk.Scheme{apk.SchemeV1, apk.SchemeV2}, 1, 18},
		"v3":         {slices.Concat(enabled("3"), by("ec"), []string{"--min-sdk-version", "28"}), []apk.Scheme{apk.SchemeV3}, 1, 28},
		"v2 v3 v4":   {slices.Concat(enabled("234"), by("rsa"), []string{"--min-sdk-version", "24"}), []apk.Scheme{apk.SchemeV2, apk.SchemeV3}, 1, 24},
		"two":        {slices.Concat(enabled("12"), by("rsa"), []string{"--next-signer"}, by("ec")), []apk.Scheme{apk.SchemeV1, apk.SchemeV2}, 2, 18},
		"v3 rotated": {slices.Concat(enabled("123"), by("rsa"), []string{"--next-signer"}, by("rsa2"), []string{"--lineage", lineage}), []apk.Scheme{apk.SchemeV1, apk.SchemeV2, apk.SchemeV3}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "signed.apk")
			tool(t, "apksigner", slices.Concat([]string{"sign"}, test.args, []string{"--out", path, unsigned})...)
			info := readFile(t, path)
			if got := info.Schemes(); !slices.Equal(got, test.schemes) || len(info.Certificates()) != test.signers {
				t.Errorf("schemes %v and %d certificates, want %v and %d", got, len(info.Certificates()), test.schemes, test.signers)
			}
			for _, s := range info.Signers {
				if s.Certificate.IsZero() {
					t.Errorf("the certificate of scheme %s was not read", s.Scheme)
				}
			}
			if test.level != 0 {
				sameAsApksigner(t, path, info, test.level)
				return
			}
			// After a rotation the newest certificate counts, which is printed only for the Androids that know it.
			out := tool(t, "openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", filepath.Join(keys, "rsa2.pem"))
			_, want, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(out, ":", "")), "=")
			if got := info.Certificates()[0].String(); !strings.EqualFold(got, want) {
				t.Errorf("the certificate is %s, want %s", got, want)
			}
		})
	}
}

// TestManyEntries writes more entries than the old format counts.
func TestManyEntries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "many.apk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := zip.NewWriter(f)
	for i := range 70_000 {
		if _, err := w.Create(strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tryFile(t, path); err == nil || !strings.Contains(err.Error(), "zip64") {
		t.Errorf("an archive with 70000 entries: %v", err)
	}
}
