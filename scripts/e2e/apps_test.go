package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// TestApps installs an app in two phones, from one APK and from a base and a split, updates, starts, stops and removes it, and kills the
// agent in the middle of an installation, which the next one finishes.
func TestApps(t *testing.T) {
	h := newHost(t)
	h.create("a1")
	h.create("a2")
	h.ctl("create", "off", "--image", "phonehost.dev/testphone:latest", "--memory", "256MiB", "--data", "128MiB")
	key, err := apkmake.NewKey("e2e")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, app apkmake.App) string {
		app.Package = "com.example.e2e"
		if app.MinSDK = 24; app.Split == "" {
			app.Label, app.Activities = "E2E", []string{"com.example.e2e.Main"}
		}
		data, err := apkmake.Make(app, key)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return h.path(name)
	}
	one, two := write("1.apk", apkmake.App{VersionCode: 1, VersionName: "1.0"}), write("2.apk", apkmake.App{VersionCode: 2})
	split := write("2-de.apk", apkmake.App{VersionCode: 2, Split: "config.de"})

	h.tls("app", "install", one, "a1", "a2")
	requireContains(t, h.ctl("app", "ls", "a1"), "com.example.e2e", "installed", "/data/app/~~")
	requireContains(t, h.ctl("app", "ls", "a1", "--system"), "image")
	requireContains(t, h.refused(1, "app", "install", one, "off", "a1", "none"), "NOT_RUNNING", "NO_SUCH_PHONE", "not done for 2 of 3 phones")
	h.ctl("app", "install", two, "a1", "--split", split)
	if out := h.ctl("exec", "a1", "--", "pm", "path", "com.example.e2e"); strings.Count(out, "package:") != 2 {
		t.Errorf("of the base and its split there are %q", out)
	}
	requireContains(t, h.refused(1, "app", "install", one, "a1"), "INSTALL_FAILED_VERSION_DOWNGRADE")

	h.ctl("app", "start", "com.example.e2e", "a1", "a2")
	requireContains(t, h.ctl("exec", "a1", "--", "ps"), "com.example.e2e")
	h.ctl("app", "stop", "com.example.e2e", "a1")
	if out := h.ctl("exec", "a1", "--", "ps"); strings.Contains(out, "com.example.e2e") {
		t.Errorf("the app runs after its stop:\n%s", out)
	}
	requireContains(t, h.refused(1, "app", "start", "com.example.none", "a1"), "APP_REFUSED")
	requireContains(t, h.refused(1, "app", "uninstall", "com.example.none", "a1"), "APP_REFUSED")
	requireContains(t, h.refused(1, "app", "uninstall", "; reboot", "a1"), "must be a package such as")

	notAPK := h.path("not.apk")
	if err := os.WriteFile(notAPK, []byte("hello, this is no APK"), 0o600); err != nil {
		t.Fatal(err)
	}
	requireContains(t, h.refused(1, "app", "install", notAPK, "a1"), "APK 0")
	requireContains(t, h.refused(1, "app", "install", split, "a1"), "base")

	t.Run("agent killed", func(t *testing.T) { testInstallAgain(t, h.in(t), write) })
	h.ctl("app", "uninstall", "com.example.e2e", "a1", "a2")
	if out := h.ctl("app", "ls", "a1"); strings.Contains(out, "com.example.e2e") {
		t.Errorf("after the removal there is %q", out)
	}
	if left, err := os.ReadDir(h.path("state", "spool", "apps")); err != nil || len(left) != 0 {
		t.Errorf("%d sets of APKs are left on the host, %v", len(left), err)
	}
}

// testInstallAgain kills the agent as soon as it has accepted an installation of some megabytes.
func testInstallAgain(t *testing.T, h *host, write func(string, apkmake.App) string) {
	big := write("3.apk", apkmake.App{VersionCode: 3, Padding: 48 << 20})
	op := strings.TrimSpace(h.ctl("app", "install", big, "a1", "a2", "--no-wait"))
	h.killAgent()
	h.startAgent()
	h.ctl("ops", "wait", op)
	for _, id := range []string{"a1", "a2"} {
		requireContains(t, h.ctl("exec", id, "--", "pm", "list", "packages", "--show-versioncode", "com.example.e2e"), "versionCode:3")
		// The first installer's end is the end of its input, which it may see after the second has done its work.
		h.waitFor("the end of the session that the first agent had begun in "+id, func() bool {
			return !strings.Contains(h.ctl("exec", id, "--", "ls", "/data/app"), "vmdl")
		})
	}
}
