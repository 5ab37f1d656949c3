package apk_test

import (
	"archive/zip"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/phonehost/phonehost/runtime/apk"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// frameworkAPK is that of Debian's package android-framework-res: the resources of Android itself.
const frameworkAPK = "/usr/share/android-framework-res/framework-res.apk"

func readFile(t *testing.T, path string) *apk.Info {
	t.Helper()
	info, err := tryFile(t, path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return info
}

func tryFile(t *testing.T, path string) (*apk.Info, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return apk.Read(f, stat.Size())
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), testenv.Tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sameAsAapt compares all that aapt tells of an APK with what is read.
func sameAsAapt(t *testing.T, path string) *apk.Info {
	t.Helper()
	got := readFile(t, path)
	want := askAapt(t, path)
	ignore := cmpopts.IgnoreFields(apk.Info{}, "Signers", "RequiresSplits", "RequiredSplitTypes", "SplitTypes", "Activities")
	if diff := gocmp.Diff(want, got, ignore, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (- aapt, + read):\n%s", filepath.Base(path), diff)
	}
	return got
}

// askAapt makes an Info of what aapt prints.
func askAapt(t *testing.T, path string) *apk.Info {
	t.Helper()
	badging, tree := tool(t, "aapt", "dump", "badging", path), tool(t, "aapt", "dump", "xmltree", path, "AndroidManifest.xml")
	one := func(text, pattern string) string {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
			return m[1]
		}
		return ""
	}
	number := func(s string) int {
		n, err := strconv.Atoi(cmp.Or(s, "0"))
		if err != nil {
			t.Fatalf("aapt prints %q for a number", s)
		}
		return n
	}
	info := &apk.Info{
		Package:        one(badging, `(?m)^package: name='([^']*)'`),
		VersionCode:    int64(number(one(badging, `(?m)^package: .* versionCode='([^']*)'`))),
		VersionName:    one(badging, `(?m)^package: .* versionName='([^']*)'`),
		Label:          one(badging, `(?m)^application: label='((?:[^'\\]|\\.)*)'`),
		Activity:       one(badging, `(?m)^launchable-activity: name='([^']*)'`),
		Debuggable:     strings.Contains(badging, "\napplication-debuggable\n"),
		TestOnly:       strings.Contains(badging, "\ntestOnly='-1'\n"),
		Split:          one(tree, `(?m)^ *A: split="([^"]*)"`),
		ConfigForSplit: one(tree, `(?m)^ *A: configForSplit="([^"]*)"`),
		FeatureSplit:   strings.Contains(tree, "A: android:isFeatureSplit(0x0101055b)=(type 0x12)0xffffffff"),
		SharedUserID:   one(tree, `(?m)^ *A: android:sharedUserId\(0x0101000b\)="([^"]*)"`),
	}
	info.MinSDK, info.MinSDKPreview = sdk(t, cmp.Or(one(badging, `(?m)^sdkVersion:'([^']*)'`), "1"))
	info.TargetSDK, info.TargetSDKPreview = info.MinSDK, info.MinSDKPreview
	if target := one(badging, `(?m)^targetSdkVersion:'([^']*)'`); target != "" {
		info.TargetSDK, info.TargetSDKPreview = sdk(t, target)
	}
	for _, line := range []string{`(?m)^native-code: (.*)$`, `(?m)^alt-native-code: (.*)$`} {
		for abi := range strings.FieldsSeq(one(badging, line)) {
			info.ABIs = append(info.ABIs, strings.Trim(abi, "'"))
		}
	}
	slices.Sort(info.ABIs)
	for _, m := range regexp.MustCompile(`(?m)^uses-permission: name='([^']*)'`).FindAllStringSubmatch(tool(t, "aapt", "dump", "permissions", path), -1) {
		if !slices.Contains(info.Permissions, m[1]) {
			info.Permissions = append(info.Permissions, m[1])
		}
	}
	return info
}

func sdk(t *testing.T, text string) (int, string) {
	t.Helper()
	if n, err := strconv.Atoi(text); err == nil {
		return n, ""
	}
	return 0, text
}

// sameAsApksigner compares the signatures, as an Android of a level sees them.
func sameAsApksigner(t *testing.T, path string, info *apk.Info, level int) {
	t.Helper()
	out := tool(t, "apksigner", "verify", "--verbose", "--print-certs", "--min-sdk-version", strconv.Itoa(level), path)
	for scheme, name := range map[apk.Scheme]string{apk.SchemeV1: "v1 scheme (JAR signing)", apk.SchemeV2: "v2 scheme (APK Signature Scheme v2)", apk.SchemeV3: "v3 scheme (APK Signature Scheme v3)"} {
		want := strings.Contains(out, "Verified using "+name+": true")
		if got := slices.Contains(info.Schemes(), scheme); got != want {
			t.Errorf("%s: scheme %s is there: %v, apksigner says %v", filepath.Base(path), scheme, got, want)
		}
	}
	var want []string
	for _, m := range regexp.MustCompile(`Signer #\d+ certificate SHA-256 digest: ([0-9a-f]{64})`).FindAllStringSubmatch(out, -1) {
		want = append(want, m[1])
	}
	slices.Sort(want)
	var got []string
	for _, d := range info.Certificates() {
		got = append(got, d.String())
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("%s: certificates (- apksigner, + read):\n%s", filepath.Base(path), diff)
	}
}

func hasEntry(t *testing.T, path, name string) bool {
	t.Helper()
	r, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	return slices.ContainsFunc(r.File, func(f *zip.File) bool { return f.Name == name })
}

// TestRealAPKs reads APKs that people ship, and Android's own resources, as aapt and apksigner do.
func TestRealAPKs(t *testing.T) {
	for _, test := range []struct {
		file, launcher, label string
	}{
		{"android-apidemos-3.0.0/ApiDemos-debug.apk", "io.appium.android.apis.ApiDemos", "API Demos"},
		{"android-apidemos-5.0.0/ApiDemos-debug.apk", "io.appium.android.apis.ApiDemos", "API Demos"},
		{"appium-uiautomator2-server-10.6.6/appium-uiautomator2-server-debug-androidTest.apk", "", ""},
		{"appium-uiautomator2-server-10.6.6/appium-uiautomator2-server-v10.6.6.apk", "", ""},
		{"appium-unlock-2.0.0/unlock_apk-debug.apk", "io.appium.unlock.Unlock", "Unlock"},
		{"io.appium.settings-2.14.2/settings_apk-debug.apk", "io.appium.settings.Settings", "Appium Settings"},
		{"io.appium.settings-8.0.10/settings_apk-debug.apk", "io.appium.settings.Settings", "Appium Settings"},
	} {
		t.Run(test.file, func(t *testing.T) {
			path := testenv.APK(t, test.file)
			info := sameAsAapt(t, path)
			level := 28
			if hasEntry(t, path, "META-INF/MANIFEST.MF") {
				level = 18 // so that it looks at JAR signatures too
			}
			sameAsApksigner(t, path, info, level)
			if info.Activity != test.launcher || info.Label != test.label {
				t.Errorf("launcher %q, label %q; want %q, %q", info.Activity, info.Label, test.launcher, test.label)
			}
		})
	}
}

func TestFramework(t *testing.T) {
	if _, err := os.Stat(frameworkAPK); err != nil {
		testenv.Missing(t, "android-framework-res", err.Error())
	}
	info := sameAsAapt(t, frameworkAPK)
	if info.Package != "android" || info.Label != "Android System" || len(info.Signers) != 0 {
		t.Errorf("read %+v", info)
	}
}
