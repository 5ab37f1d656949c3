package render

import (
	"fmt"
	"io"
	"strings"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// Apps writes the apps of a phone, a row each.
func Apps(w io.Writer, apps []*phonehostv1.InstalledApp) error {
	t := NewTable("PACKAGE", "VERSION", "UID", "FROM", "PATH")
	for _, a := range apps {
		from := "installed"
		if a.GetSystem() {
			from = "image"
		}
		t.Row(Printable(a.GetPackage()), fmt.Sprint(a.GetVersionCode()), fmt.Sprint(a.GetUid()), from, Printable(a.GetPath()))
	}
	return t.Write(w)
}

// App describes an app in a line: its package, its versions, its name, and how it is signed.
func App(a *phonehostv1.App) string {
	text := fmt.Sprintf("%s (%d)", strings.TrimSpace(a.GetPackage()+" "+a.GetVersionName()), a.GetVersionCode())
	if a.GetLabel() != "" {
		text += ", " + a.GetLabel()
	}
	if len(a.GetSignatureSchemes()) == 0 {
		return Printable(text + ", not signed")
	}
	return Printable(text + ", signed " + strings.Join(a.GetSignatureSchemes(), " "))
}
