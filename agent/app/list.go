package app

import (
	"context"
	"slices"
	"strconv"
	"strings"
)

// Scope says which apps List returns. The numbers are those of the API.
type Scope int

// Scopes.
const (
	ThirdParty Scope = 1 // those that were installed
	System     Scope = 2 // those that came with the image
	All        Scope = 3
)

// Installed is an app of a phone.
type Installed struct {
	// Package names it.
	Package string
	// VersionCode is its version.
	VersionCode int64
	// UID is that of the guest's first user.
	UID uint32
	// Path of its base APK in the guest.
	Path string
	// System is whether it came with the image.
	System bool
}

// List returns the apps of a running phone in the order of their packages. Errors: the phone's faults, APP_REFUSED.
func (m *Manager) List(ctx context.Context, id string, scope Scope) ([]Installed, error) {
	var all []Installed
	for _, part := range []struct {
		flag string
		in   []Scope
	}{{"-3", []Scope{ThirdParty, All}}, {"-s", []Scope{System, All}}} {
		if !slices.Contains(part.in, scope) {
			continue
		}
		said, code, err := m.run(ctx, place{phone: id}, nil, packages, "list", "packages", "-f", "-U", "--show-versioncode", part.flag)
		if err != nil {
			return nil, err
		}
		apps, ok := parseList(said)
		if code != 0 || !ok {
			return nil, refused(id, "pm list packages", said, code)
		}
		for i := range apps {
			apps[i].System = part.flag == "-s"
		}
		all = append(all, apps...)
	}
	slices.SortFunc(all, func(a, b Installed) int { return strings.Compare(a.Package, b.Package) })
	return all, nil
}

// parseList reads the lines of `pm list packages -f -U --show-versioncode`:
//
//	package:/data/app/~~X==/com.example-Y==/base.apk=com.example versionCode:7 uid:10012
//
// The path may hold '='. It is false where a line is none of these. Lines that Android's runtime writes before them are left out.
func parseList(text string) ([]Installed, bool) {
	var all []Installed
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		rest, ok := strings.CutPrefix(line, "package:")
		if !ok {
			if line == "" || strings.HasPrefix(line, "WARNING: linker:") {
				continue
			}
			return nil, false
		}
		words := strings.Fields(rest)
		if len(words) == 0 {
			return nil, false
		}
		split := strings.LastIndexByte(words[0], '=')
		if split < 0 {
			return nil, false
		}
		app := Installed{Path: words[0][:split], Package: words[0][split+1:]}
		if CheckPackage(app.Package) != nil && app.Package != "android" {
			return nil, false
		}
		for _, w := range words[1:] {
			name, value, _ := strings.Cut(w, ":")
			first, _, _ := strings.Cut(value, ",")
			n, err := strconv.ParseInt(first, 10, 64)
			switch {
			case err != nil:
				return nil, false
			case name == "versionCode":
				app.VersionCode = n
			case name == "uid":
				app.UID = uint32(n)
			}
		}
		all = append(all, app)
	}
	return all, true
}
