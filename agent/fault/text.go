package fault

import "strings"

// maxText bounds a text that is stored or sent, since part of it may be what a guest printed.
const maxText = 1024

// Readable makes a text short and valid UTF-8, whatever a guest put into it.
func Readable(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + "..."
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// Clip shortens what a caller sent so that an error stays readable.
func Clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
