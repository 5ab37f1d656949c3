package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
	"github.com/phonehost/phonehost/scripts/testphone/applet"
)

// entry is one file of the image.
type entry struct {
	name string // without a leading slash
	mode int64  // with tar.TypeDir or tar.TypeReg
	kind byte
	link string
	data []byte
}

// tree returns the files of the image for an architecture, directories before what is in them.
func tree(program []byte, arch, version string) ([]entry, error) {
	apps, err := systemApps()
	if err != nil {
		return nil, err
	}
	dir := func(name string, mode int64) entry { return entry{name: name + "/", mode: mode, kind: tar.TypeDir} }
	file := func(name, text string) entry {
		return entry{name: name, mode: 0o644, kind: tar.TypeReg, data: []byte(text)}
	}
	link := func(name, target string) entry {
		return entry{name: name, mode: 0o777, kind: tar.TypeSymlink, link: target}
	}
	list := []entry{
		link("bin", "system/bin"),
		dir("data", 0o771), dir("dev", 0o755), dir("etc", 0o755),
		file("etc/group", "root:x:0:\nsystem:x:1000:\nshell:x:2000:\ninet:x:3003:\nnobody:x:9999:\n"),
		file("etc/resolv.conf", ""), // the profile's lies over it
		file("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
		file("etc/passwd", "root:x:0:0::/data:/system/bin/sh\nsystem:x:1000:1000::/data:/system/bin/sh\n"+
			"shell:x:2000:2000::/data:/system/bin/sh\nnobody:x:9999:9999::/data:/system/bin/false\n"),
		link("init", "system/bin/testphone"),
		dir("proc", 0o555), dir("run", 0o755), dir("run/wayland", 0o755), dir("sys", 0o555),
		dir("system", 0o755), dir("system/bin", 0o755),
	}
	names := append(applet.Names(), "app_process", "init", "servicemanager", "sh", "system_server", "testphone-screen", "zygote")
	slices.Sort(names)
	for _, name := range names {
		list = append(list, link("system/bin/"+name, "testphone"))
	}
	list = append(list, apps...)
	list = append(list,
		entry{name: "system/bin/testphone", mode: 0o755, kind: tar.TypeReg, data: program},
		file("system/build.prop", buildProp(arch, version)),
		dir("tmp", 0o1777),
	)
	return list, nil
}

// systemApps are the packages that the image brings: one with the system's uid, one whose uid is shared, and the launcher.
func systemApps() ([]entry, error) {
	key, err := apkmake.NewKey("platform")
	if err != nil {
		return nil, err
	}
	list := []entry{{name: "system/app/", mode: 0o755, kind: tar.TypeDir}, {name: "system/priv-app/", mode: 0o755, kind: tar.TypeDir}}
	internet := []string{"android.permission.INTERNET"}
	for _, app := range []struct {
		dir string
		app apkmake.App
	}{
		{"app/Launcher3", apkmake.App{Package: "com.android.launcher3", Label: "Launcher", Activities: []string{".Launcher"}}},
		{"priv-app/Settings", apkmake.App{
			Package: "com.android.settings", Label: "Settings", SharedUserID: "android.uid.system", Activities: []string{".Settings"}, Permissions: internet,
		}},
		{"priv-app/SystemUI", apkmake.App{Package: "com.android.systemui", Label: "System UI", SharedUserID: "android.uid.systemui", Permissions: internet}},
	} {
		app.app.VersionCode, app.app.VersionName, app.app.MinSDK, app.app.TargetSDK = sdk, release, sdk, sdk
		data, err := apkmake.Make(app.app, key)
		if err != nil {
			return nil, err
		}
		dir := "system/" + app.dir
		list = append(list, entry{name: dir + "/", mode: 0o755, kind: tar.TypeDir},
			entry{name: dir + "/" + path.Base(dir) + ".apk", mode: 0o644, kind: tar.TypeReg, data: data})
	}
	return list, nil
}

// The Android release whose contracts testphone keeps, and its API level.
const (
	release = "14"
	sdk     = 34
)

// buildProp returns the properties of the image.
func buildProp(arch, version string) string {
	abi := map[string]string{"amd64": "x86_64", "arm64": "arm64-v8a"}[arch]
	lines := []string{
		"# Properties of the testphone image.",
		"ro.build.id=testphone",
		"ro.build.type=userdebug",
		"ro.build.display.id=testphone " + version,
		"ro.build.version.release=" + release,
		fmt.Sprintf("ro.build.version.sdk=%d", sdk),
		"ro.build.version.incremental=" + version,
		"ro.build.shutdown_timeout=6",
		"ro.debuggable=1",
		"ro.hardware=testphone",
		"ro.product.brand=phonehost",
		"ro.product.cpu.abi=" + abi,
		"ro.product.cpu.abilist=" + abi,
		"ro.product.device=testphone",
		"ro.product.manufacturer=phonehost",
		"ro.product.model=testphone",
		"ro.product.name=testphone",
		"ro.sf.lcd_density=320",
	}
	return strings.Join(lines, "\n") + "\n"
}

// writeTar writes the entries as a tar stream in which everything belongs to root and nothing has a date.
func writeTar(w io.Writer, list []entry) error {
	tw := tar.NewWriter(w)
	for _, e := range list {
		hdr := &tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.link, Mode: e.mode, Size: int64(len(e.data)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(hdr); err != nil {
			return fmt.Errorf("tar %s: %w", e.name, err)
		}
		if _, err := tw.Write(e.data); err != nil {
			return fmt.Errorf("tar %s: %w", e.name, err)
		}
	}
	return tw.Close()
}

func compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	zw, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := zw.Write(b); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
