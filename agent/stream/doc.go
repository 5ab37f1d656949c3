// Package stream shows the screens of phones to viewers and takes their input.
//
// It owns who watches what: viewers, the levels (encoders) that they share, how much may be under way to each of them, and
// the touches and keys that callers hold down. It never encodes, never speaks to a network, and never starts or stops a
// display: packets come from agent/display, and agent/api carries them.
//
// # From the display to the viewers
//
// All viewers of a phone that asked for the same frame rate share one level: opened with the first of them, closed with the
// last. A display encodes only with credit. A level is given credit for one packet at a time, and only when a viewer can
// take one: all that was queued for that viewer has been handed to its connection, and what it has not acknowledged fits
// its window (window.go). So with one viewer frames are dropped before they are encoded, never after, and nothing is
// encoded while the last packet is unsent.
//
// A viewer that is slower than another of its level gets some slack; beyond it, it lags: it is left out until it can take
// a packet again, then a key frame is asked for, at most one per second and viewer, and it goes on with that. The others
// notice nothing but the key frame. The first packet that a viewer gets is always a key frame.
//
// A packet is kept once for all viewers. Sequence numbers and send times are the viewer's own.
//
// # Losing a display
//
// A phone whose display is lost keeps its viewers; they are told, and go on with a key frame of a level opened anew when
// the display is back. A display that is not wanted any more (the phone is off) ends the calls of its viewers and inputs.
//
// # Locks and goroutines
//
// Hub.mu guards the table of screens, screen.mu everything of one phone; both may not be held while something blocks, and
// Hub.mu is taken before screen.mu. Packets are delivered by the reader of the display's connection, under screen.mu. A
// screen has one goroutine, its keeper, which does what takes time: it opens levels and asks for key frames whose time has
// come. It ends with the screen's last viewer or input; Hub.Shutdown waits for all keepers.
package stream
