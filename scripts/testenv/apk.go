package testenv

import (
	"os"
	"path/filepath"
	"testing"
)

// APK needs a real APK file, which scripts/apks brings, and returns its path. name is PACKAGE-VERSION/FILE.
func APK(t testing.TB, name string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		Missing(t, "apks", "there is no cache directory of the user: "+err.Error())
	}
	path := filepath.Join(cache, "phonehost", "apk", name)
	if _, err := os.Stat(path); err != nil {
		Missing(t, "apks", "run scripts/apks to get the real APK files: "+err.Error())
	}
	return path
}
