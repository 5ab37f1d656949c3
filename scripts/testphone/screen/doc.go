// Package screen is testphone's composer: a Wayland client that shows what package paint draws, and hands it what is touched and typed.
//
// It follows Waydroid's hardware composer request by request, so that a display which serves testphone well serves Waydroid: the same five
// globals at the same versions with a nested roundtrip for the output; a first commit without a buffer, a roundtrip, a second one; a size
// that is fixed from then on; frames by its own clock, never by frame callbacks; three buffers in turn whether released or not, each with
// a memfd and a pool of its own; the whole buffer damaged each time; and an end when the display does not read what is sent.
//
// One goroutine, the caller of Run, owns the client and the picture. Three more feed it, one with the display's events and two with
// changes of properties; Run waits for them.
package screen
