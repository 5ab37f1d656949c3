package screen

import "strings"

const (
	// ShownProperty is 1 when the display has taken the first frame.
	ShownProperty = "sys.testphone.screen"
	// AppsProperty names the apps that are shown, see JoinApps.
	AppsProperty = "sys.testphone.apps"

	// maxProperty is how many bytes a property holds.
	maxProperty  = 91
	appSeparator = "|"
)

// JoinApps makes a property's value of the labels of apps; those that do not fit are left out.
func JoinApps(labels []string) string {
	var b strings.Builder
	for _, label := range labels {
		label = strings.ToValidUTF8(strings.ReplaceAll(label, appSeparator, "/"), "")
		if b.Len()+len(appSeparator)+len(label) > maxProperty {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(appSeparator)
		}
		b.WriteString(label)
	}
	return b.String()
}

// splitApps reads what JoinApps wrote.
func splitApps(value string) []string {
	if value == "" {
		return nil
	}
	return strings.Split(value, appSeparator)
}
