package apk

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The resource ids of Android's attributes, from the framework's public-final.xml.
const (
	attrLabel              = 0x01010001
	attrName               = 0x01010003
	attrSharedUserID       = 0x0101000b
	attrEnabled            = 0x0101000e
	attrDebuggable         = 0x0101000f
	attrMinSDKVersion      = 0x0101020c
	attrVersionCode        = 0x0101021b
	attrVersionName        = 0x0101021c
	attrTargetSDKVersion   = 0x01010270
	attrTestOnly           = 0x01010272
	attrFeatureSplit       = 0x0101055b
	attrVersionCodeMajor   = 0x01010576
	attrSplitRequired      = 0x01010591
	attrRequiredSplitTypes = 0x0101064e
	attrSplitTypes         = 0x0101064f
)

const (
	maxName       = 223
	maxText       = 1000
	maxActivities = 8192

	actionMain       = "android.intent.action.MAIN"
	categoryLauncher = "android.intent.category.LAUNCHER"
)

// manifest is the visitor that makes an Info.
type manifest struct {
	info      *Info
	resources *lazyTable
	path      [5]string // the names of the open elements, as deep as they matter

	permissions map[string]bool
	activity    activity
	enabled     bool // of the application
	application bool // there was one; Android takes the first
}

// activity is the one that is open.
type activity struct {
	name                   string
	enabled                func() (bool, error)
	main, launcher, starts bool // in this filter: MAIN, LAUNCHER; in one of its filters: both
}

// parseManifest reads AndroidManifest.xml.
func parseManifest(b []byte, resources *lazyTable) (*Info, error) {
	if err := notBinary(b); err != nil {
		return nil, err
	}
	m := &manifest{info: &Info{MinSDK: 1}, resources: resources, permissions: map[string]bool{}, enabled: true}
	if err := walk(b, len(m.path)-1, m); err != nil {
		return nil, err
	}
	if m.info.Package == "" {
		return nil, invalid("it has no element <manifest>")
	}
	if m.info.TargetSDK == 0 && m.info.TargetSDKPreview == "" {
		m.info.TargetSDK, m.info.TargetSDKPreview = m.info.MinSDK, m.info.MinSDKPreview
	}
	return m.info, nil
}

func (m *manifest) start(depth int, n node) error {
	m.path[depth] = n.name
	if m.path[0] != "manifest" {
		return invalid("its first element is <%.40s>, not <manifest>", clean(m.path[0]))
	}
	switch depth {
	case 0:
		return m.root(n)
	case 1:
		return m.top(n)
	}
	if m.path[1] != "application" || !isActivity(m.path[2]) {
		return nil
	}
	switch {
	case depth == 2:
		return m.openActivity(n)
	case depth == 3 && n.name == "intent-filter":
		m.activity.main, m.activity.launcher = false, false
	case depth == 4 && m.path[3] == "intent-filter":
		return m.filter(n)
	}
	return nil
}

func isActivity(name string) bool { return name == "activity" || name == "activity-alias" }

func (m *manifest) end(depth int) error {
	if m.path[1] != "application" || !isActivity(m.path[2]) {
		return nil
	}
	switch {
	case depth == 3 && m.path[3] == "intent-filter":
		m.activity.starts = m.activity.starts || m.activity.main && m.activity.launcher
	case depth == 2 && m.activity.starts && m.info.Activity == "" && m.enabled:
		on, err := m.activity.enabled()
		if on {
			m.info.Activity = m.activity.name
		}
		return err
	}
	return nil
}

// root reads <manifest>.
func (m *manifest) root(n node) error {
	if m.info.Package != "" {
		return invalid("it has two elements <manifest>")
	}
	i := m.info
	var major, minor int64
	err := firstError(
		func() error { return m.plainText(n, "package", &i.Package) },
		func() error { return m.plainText(n, "split", &i.Split) },
		func() error { return m.plainText(n, "configForSplit", &i.ConfigForSplit) },
		func() error { return m.number(n, attrVersionCode, "versionCode", &minor) },
		func() error { return m.number(n, attrVersionCodeMajor, "versionCodeMajor", &major) },
		func() error { return m.text(n, attrVersionName, "versionName", &i.VersionName) },
		func() error { return m.text(n, attrSharedUserID, "sharedUserId", &i.SharedUserID) },
		func() error { return m.boolean(n, attrFeatureSplit, "isFeatureSplit", &i.FeatureSplit) },
		func() error { return m.boolean(n, attrSplitRequired, "isSplitRequired", &i.RequiresSplits) },
		func() error { return m.list(n, attrRequiredSplitTypes, "requiredSplitTypes", &i.RequiredSplitTypes) },
		func() error { return m.list(n, attrSplitTypes, "splitTypes", &i.SplitTypes) },
		func() error { return checkPackage(i.Package) },
		func() error { return checkName("split", i.Split) },
		func() error { return checkName("configForSplit", i.ConfigForSplit) },
	)
	i.VersionCode = major<<32 | minor&0xffffffff
	return err
}

// top reads the elements of <manifest>.
func (m *manifest) top(n node) error {
	switch n.name {
	case "uses-sdk":
		return firstError(
			func() error {
				return m.sdk(n, attrMinSDKVersion, "minSdkVersion", &m.info.MinSDK, &m.info.MinSDKPreview)
			},
			func() error {
				return m.sdk(n, attrTargetSDKVersion, "targetSdkVersion", &m.info.TargetSDK, &m.info.TargetSDKPreview)
			},
		)
	case "uses-permission", "uses-permission-sdk-23", "uses-permission-sdk-m":
		var name string
		if err := m.text(n, attrName, "name", &name); err != nil || name == "" || m.permissions[name] {
			return err
		}
		m.permissions[name] = true
		m.info.Permissions = append(m.info.Permissions, name)
	case "application":
		if m.application {
			m.path[1] = "" // and leaves out what is in another
			return nil
		}
		m.application = true
		return firstError(
			func() error { return m.boolean(n, attrDebuggable, "debuggable", &m.info.Debuggable) },
			func() error { return m.boolean(n, attrTestOnly, "testOnly", &m.info.TestOnly) },
			func() error { return m.boolean(n, attrEnabled, "enabled", &m.enabled) },
			func() error { return m.text(n, attrLabel, "label", &m.info.Label) },
		)
	}
	return nil
}

func (m *manifest) openActivity(n node) error {
	m.activity = activity{}
	var name string
	if err := m.text(n, attrName, "name", &name); err != nil || name == "" {
		return err
	}
	if len(m.info.Activities) == maxActivities {
		return invalid("it has more than %d activities", maxActivities)
	}
	m.activity.name = className(m.info.Package, name)
	m.info.Activities = append(m.info.Activities, m.activity.name)
	// Looked up only for an activity that a launcher would show.
	m.activity.enabled = func() (bool, error) {
		on := true
		err := m.boolean(n, attrEnabled, "enabled", &on)
		return on, err
	}
	return nil
}

// filter reads an element of an activity's <intent-filter>.
func (m *manifest) filter(n node) error {
	var name string
	if n.name != "action" && n.name != "category" {
		return nil
	}
	if err := m.text(n, attrName, "name", &name); err != nil {
		return err
	}
	switch {
	case m.activity.name == "":
	case n.name == "action" && name == actionMain:
		m.activity.main = true
	case n.name == "category" && name == categoryLauncher:
		m.activity.launcher = true
	}
	return nil
}

// resolve returns what an attribute's value is after all references.
func (m *manifest) resolve(v value, ok bool, err error) (value, bool, error) {
	if err != nil || !ok || !v.isReference() {
		return v, ok, err
	}
	v, ok, err = m.resources.resolve(v)
	return v, ok, err
}

// text reads a string attribute of Android's. One that is not there, or refers to what is not there, leaves out alone.
func (m *manifest) text(n node, id uint32, name string, out *string) error {
	v, ok, err := m.resolve(n.android(id, name))
	if err != nil || !ok {
		return err
	}
	switch {
	case v.kind == kindString:
		*out = clean(v.text)
	case v.isInt():
		*out = strconv.Itoa(int(int32(v.data)))
	}
	return nil
}

// plainText reads a string attribute without a namespace.
func (m *manifest) plainText(n node, name string, out *string) error {
	v, ok, err := n.plain(name)
	if err == nil && ok && v.kind == kindString {
		*out = v.text
	}
	return err
}

func (m *manifest) list(n node, id uint32, name string, out *[]string) error {
	var text string
	if err := m.text(n, id, name, &text); err != nil || text == "" {
		return err
	}
	for part := range strings.SplitSeq(text, ",") {
		*out = append(*out, strings.TrimSpace(part))
	}
	return nil
}

// boolean reads an attribute that is true or false.
func (m *manifest) boolean(n node, id uint32, name string, out *bool) error {
	v, ok, err := m.resolve(n.android(id, name))
	if err == nil && ok && v.isInt() {
		*out = v.data != 0
	}
	return err
}

// number reads a whole number of 32 bits.
func (m *manifest) number(n node, id uint32, name string, out *int64) error {
	given, ok, err := n.android(id, name)
	if err != nil || !ok {
		return err
	}
	v, ok, err := m.resolve(given, ok, err)
	switch {
	case err != nil:
		return err
	case !ok:
		return invalid("%s refers to resource 0x%08x, which the APK does not have", name, given.data)
	case !v.isInt():
		return invalid("%s is %.40q, not a number", name, v.text)
	}
	*out = int64(int32(v.data))
	return nil
}

// sdk reads an API level, or the name of a preview release.
func (m *manifest) sdk(n node, id uint32, name string, level *int, preview *string) error {
	v, ok, err := m.resolve(n.android(id, name))
	if err != nil || !ok {
		return err
	}
	if v.kind == kindString {
		if number, err := strconv.ParseInt(v.text, 10, 32); err == nil {
			*level = int(number)
			return nil
		}
		*level, *preview = 0, clean(v.text)
		return nil
	}
	if v.isInt() {
		*level = int(int32(v.data))
	}
	return nil
}

// firstError calls the functions until one returns an error.
func firstError(list ...func() error) error {
	for _, f := range list {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// checkPackage checks the name of a package by Android's rule (FrameworkParsingPackageUtils.validateName).
func checkPackage(name string) error {
	if name == "android" {
		return nil
	}
	parts := strings.Split(name, ".")
	if len(parts) < 2 || len(name) > maxName {
		return invalid("the package is named %.100q; a name has at least two parts with a dot between them, and at most %d characters", name, maxName)
	}
	for _, part := range parts {
		if part == "" || strings.Trim(part, nameCharacters) != "" || strings.ContainsRune("0123456789_", rune(part[0])) {
			return invalid("the package is named %.100q; the parts of a name are letters, digits and '_', and begin with a letter", name)
		}
	}
	return nil
}

const nameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

// checkName checks the name of a split, which becomes part of a file's name.
func checkName(what, name string) error {
	if len(name) > maxName || strings.Trim(name, nameCharacters+".-") != "" || strings.HasPrefix(name, ".") {
		return invalid("%s is %.100q; the name of a split is letters, digits and '_', '.', '-'", what, name)
	}
	return nil
}

// clean makes text safe to print: without control characters, on one line, and of at most maxText characters. It looks at the beginning
// only, since a manifest may name the same long string a hundred thousand times.
func clean(s string) string {
	s = s[:min(len(s), utf8.UTFMax*maxText)]
	if len(s) <= maxText && isPlain(s) {
		return s
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, s)
	count := 0
	for i := range s {
		if count++; count > maxText {
			s = s[:i]
			break
		}
	}
	return strings.TrimSpace(s)
}

// isPlain says that a text is ASCII without control characters and blanks at its ends.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s == "" || s[0] != ' ' && s[len(s)-1] != ' '
}
