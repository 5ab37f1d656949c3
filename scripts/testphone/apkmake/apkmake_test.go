package apkmake

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/runtime/apk"
	"github.com/phonehost/phonehost/scripts/testenv"
)

var full = App{
	Package: "com.example.full", VersionCode: 5<<32 | 7, VersionName: "7.1", Label: "Füll \"x\"", MinSDK: 24, TargetSDK: 34,
	Debuggable: true, TestOnly: true, SharedUserID: "com.example.shared", Permissions: []string{"android.permission.INTERNET", "android.permission.CAMERA"},
	Activities: []string{".Main", "com.example.full.Other"}, ABIs: []string{"arm64-v8a", "x86_64"}, Padding: 3 << 20,
}

func key(t *testing.T, name string) *Key {
	t.Helper()
	k, err := NewKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestReadBack(t *testing.T) {
	b, err := Make(full, key(t, "one"), key(t, "two"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := apk.Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	want := &apk.Info{
		Package: full.Package, VersionCode: full.VersionCode, VersionName: "7.1", Label: `Füll "x"`, MinSDK: 24, TargetSDK: 34, Debuggable: true,
		TestOnly: true, SharedUserID: "com.example.shared", ABIs: full.ABIs, Permissions: full.Permissions, Activity: "com.example.full.Main",
		Activities: []string{"com.example.full.Main", "com.example.full.Other"},
		Signers: []apk.Signer{
			{Scheme: apk.SchemeV2, Certificate: key(t, "one").Digest()}, {Scheme: apk.SchemeV2, Certificate: key(t, "two").Digest()},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	again, err := Make(full, key(t, "one"), key(t, "two"))
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("the same app gave other bytes, %v", err)
	}
}

func TestSplit(t *testing.T) {
	b, err := Make(App{Package: "com.example.full", VersionCode: 7, Split: "feature.x", ConfigForSplit: "base", FeatureSplit: true, SplitRequired: true}, key(t, "one"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := apk.Read(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if got.Split != "feature.x" || got.ConfigForSplit != "base" || !got.FeatureSplit || !got.RequiresSplits || got.Base() {
		t.Errorf("read %+v", got)
	}
}

// TestAndroidToolsTakeIt has Android's own tools read and verify what was written.
func TestAndroidToolsTakeIt(t *testing.T) {
	aapt, apksigner := testenv.Tool(t, "aapt"), testenv.Tool(t, "apksigner")
	b, err := Make(full, key(t, "one"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "full.apk")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), aapt, "dump", "badging", path).CombinedOutput()
	if err != nil {
		t.Fatalf("aapt: %v\n%s", err, out)
	}
	for _, line := range []string{
		"package: name='com.example.full' versionCode='7' versionName='7.1'", "sdkVersion:'24'", "targetSdkVersion:'34'", "testOnly='-1'",
		"application-debuggable", "uses-permission: name='android.permission.CAMERA'", "launchable-activity: name='com.example.full.Main'",
		"native-code: 'arm64-v8a' 'x86_64'",
	} {
		if !strings.Contains(string(out), line) {
			t.Errorf("aapt does not say %s:\n%s", line, out)
		}
	}
	out, err = exec.CommandContext(t.Context(), apksigner, "verify", "--verbose", "--print-certs", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Verified using v2 scheme (APK Signature Scheme v2): true") {
		t.Errorf("apksigner: %v\n%s", err, out)
	}
}
