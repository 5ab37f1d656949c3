package packages

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/phonehost/phonehost/runtime/apk"
)

const (
	firstAppID = 10000
	lastAppID  = 19999

	inetGID = 3003 // AID_INET

	permissionInternet = "android.permission.INTERNET"
)

// systemIDs are the shared users that have a uid of Android's own.
var systemIDs = map[string]int{"android.uid.system": 1000, "android.uid.phone": 1001, "android.uid.shell": 2000}

// State is what a user has done with a package.
type State struct {
	// Enabled is "", "enabled", "disabled" or "disabled-user".
	Enabled   string `json:"enabled,omitempty"`
	Suspended bool   `json:"suspended,omitempty"`
}

// Off says that the package cannot be started.
func (s State) Off() bool { return s.Enabled == "disabled" || s.Enabled == "disabled-user" }

// Package is an installed package.
type Package struct {
	Name  string `json:"name"`
	AppID int    `json:"app_id"`
	// Dir holds base.apk, or the system's APK, and the splits. It is empty for a package that was uninstalled and left its data.
	Dir    string   `json:"dir,omitempty"`
	Base   string   `json:"base,omitempty"` // the base APK's file
	Splits []string `json:"splits,omitempty"`

	VersionCode int64    `json:"version_code"`
	VersionName string   `json:"version_name,omitempty"`
	Label       string   `json:"label,omitempty"`
	TargetSDK   int      `json:"target_sdk"`
	MinSDK      int      `json:"min_sdk"`
	Debuggable  bool     `json:"debuggable,omitempty"`
	SharedUser  string   `json:"shared_user,omitempty"`
	Permissions []string `json:"permissions,omitempty"`
	Activity    string   `json:"activity,omitempty"`
	Activities  []string `json:"activities,omitempty"`
	// Certificates are the SHA-256 digests of the signers, in hexadecimal.
	Certificates []string `json:"certificates,omitempty"`

	// System packages came with the image. An update of one lies in /data/app.
	System     bool   `json:"system,omitempty"`
	Privileged bool   `json:"privileged,omitempty"`
	Installer  string `json:"installer,omitempty"`

	Installed time.Time     `json:"installed"`
	Updated   time.Time     `json:"updated"`
	Users     map[int]State `json:"users,omitempty"`
}

// UID is the package's uid for a user.
func (p *Package) UID(user int) int { return UID(user, p.AppID) }

// UID makes a uid of a user and an app id.
func UID(user, appID int) int { return user*100000 + appID }

// DataDir is where the package keeps its data for a user, as Android names it.
func (p *Package) DataDir(user int) string { return fmt.Sprintf("/data/user/%d/%s", user, p.Name) }

// IsInstalled says that there is code and not only data.
func (p *Package) IsInstalled() bool { return p.Dir != "" }

// inData says that the code is not the image's.
func (p *Package) inData() bool { return p.IsInstalled() && !strings.HasPrefix(p.Dir, "/system/") }

// Files are the paths of the APKs, the base first.
func (p *Package) Files() []string {
	list := []string{filepath.Join(p.Dir, p.Base)}
	for _, split := range p.Splits {
		list = append(list, filepath.Join(p.Dir, splitFile(split)))
	}
	return list
}

// GIDs are the groups that the package's permissions bring.
func (p *Package) GIDs() []int {
	if slices.Contains(p.Permissions, permissionInternet) {
		return []int{inetGID}
	}
	return nil
}

// HasActivity says whether the package has an activity of that class.
func (p *Package) HasActivity(class string) bool { return slices.Contains(p.Activities, class) }

func splitFile(name string) string { return "split_" + name + ".apk" }

// describe takes over what the APKs say. base is the base's.
func (p *Package) describe(base *apk.Info, all []*apk.Info) {
	p.Name, p.VersionCode, p.VersionName, p.Label = base.Package, base.VersionCode, base.VersionName, base.Label
	p.MinSDK, p.TargetSDK, p.Debuggable, p.SharedUser = base.MinSDK, base.TargetSDK, base.Debuggable, base.SharedUserID
	p.Activity, p.Permissions, p.Activities, p.Splits, p.Certificates = base.Activity, base.Permissions, base.Activities, nil, nil
	for _, info := range all {
		if !info.Base() {
			p.Splits = append(p.Splits, info.Split)
			p.Activities = append(p.Activities, info.Activities...)
		}
	}
	slices.Sort(p.Splits)
	for _, digest := range base.Certificates() {
		p.Certificates = append(p.Certificates, digest.String())
	}
}

// line is the package's line of packages.list.
func (p *Package) line() string {
	gids := "none"
	if list := p.GIDs(); len(list) > 0 {
		gids = strings.Trim(strings.Join(strings.Fields(fmt.Sprint(list)), ","), "[]")
	}
	seinfo, installer := "default", cmp.Or(p.Installer, "@null")
	if p.System {
		seinfo, installer = "platform", "@system"
	}
	if p.Privileged {
		seinfo += ":privapp"
	}
	debuggable := 0
	if p.Debuggable {
		debuggable = 1
	}
	// name, uid, debuggable, data, seinfo, gids, profileable from the shell, version, profileable, installer
	return fmt.Sprintf("%s %d %d %s %s:targetSdkVersion=%d %s 0 %d 1 %s\n",
		p.Name, p.AppID, debuggable, p.DataDir(0), seinfo, p.TargetSDK, gids, p.VersionCode, installer)
}

// list makes packages.list.
func list(all map[string]*Package) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if p := all[name]; p.IsInstalled() {
			b.WriteString(p.line())
		}
	}
	return b.String()
}
