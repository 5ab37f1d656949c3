package apkmake

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
)

// App is what is written into an APK. What is empty is left out of the manifest.
type App struct {
	Package     string
	VersionCode int64 // the upper half becomes versionCodeMajor
	VersionName string
	Label       string

	MinSDK, TargetSDK int

	// Split makes a split of it, which has no activities.
	Split, ConfigForSplit string
	FeatureSplit          bool
	SplitRequired         bool

	Debuggable, TestOnly bool
	SharedUserID         string
	Permissions          []string
	// Activities are classes; the first is shown by launchers.
	Activities []string
	// ABIs get an empty library each.
	ABIs []string
	// Padding is a file of so many bytes.
	Padding int
}

// Make returns the APK, signed by the keys; without any it is not signed.
func Make(app App, keys ...*Key) ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	add := func(name string, data []byte, method uint16) error {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err == nil {
			_, err = f.Write(data)
		}
		return err
	}
	err := add("AndroidManifest.xml", manifest(app), zip.Deflate)
	for _, abi := range app.ABIs {
		if err == nil {
			err = add("lib/"+abi+"/libempty.so", []byte("\x7fELF"), zip.Store)
		}
	}
	if app.Padding > 0 && err == nil {
		err = add("assets/padding", padding(app.Padding), zip.Store)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("write APK of %s: %w", app.Package, err)
	}
	if len(keys) == 0 {
		return b.Bytes(), nil
	}
	return sign(b.Bytes(), keys)
}

// padding is bytes that no compression makes smaller.
func padding(n int) []byte {
	b := make([]byte, n)
	state := uint64(1)
	for i := range b {
		state = state*6364136223846793005 + 1442695040888963407
		b[i] = byte(state >> 56)
	}
	return b
}

// manifest writes AndroidManifest.xml.
func manifest(app App) []byte {
	root := element{name: "manifest", attrs: []attribute{
		number("versionCode", uint32(app.VersionCode)), text("versionName", app.VersionName), text("sharedUserId", app.SharedUserID),
		truth("isFeatureSplit", app.FeatureSplit), truth("isSplitRequired", app.SplitRequired),
		{name: "package", kind: kindString, text: app.Package}, {name: "split", kind: kindString, text: app.Split},
		{name: "configForSplit", kind: kindString, text: app.ConfigForSplit},
	}}
	if major := uint32(app.VersionCode >> 32); major != 0 {
		root.attrs = append(root.attrs, number("versionCodeMajor", major))
	}
	sdk := element{name: "uses-sdk"}
	if app.MinSDK != 0 {
		sdk.attrs = append(sdk.attrs, number("minSdkVersion", uint32(app.MinSDK)))
	}
	if app.TargetSDK != 0 {
		sdk.attrs = append(sdk.attrs, number("targetSdkVersion", uint32(app.TargetSDK)))
	}
	root.children = append(root.children, sdk)
	for _, permission := range app.Permissions {
		root.children = append(root.children, element{name: "uses-permission", attrs: []attribute{text("name", permission)}})
	}
	application := element{name: "application", attrs: []attribute{
		text("label", app.Label), truth("hasCode", false).always(), truth("debuggable", app.Debuggable), truth("testOnly", app.TestOnly),
	}}
	for i, class := range app.Activities {
		activity := element{name: "activity", attrs: []attribute{text("name", class), truth("exported", true)}}
		if i == 0 {
			activity.children = []element{{name: "intent-filter", children: []element{
				{name: "action", attrs: []attribute{text("name", "android.intent.action.MAIN")}},
				{name: "category", attrs: []attribute{text("name", "android.intent.category.LAUNCHER")}},
			}}}
		}
		application.children = append(application.children, activity)
	}
	root.children = append(root.children, application)
	return root.encode()
}

// le32 appends numbers of 32 bits.
func le32(b []byte, list ...uint32) []byte {
	for _, v := range list {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}
