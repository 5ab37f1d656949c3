// Package display is the agent's side of the protocol between the agent and the phone-display processes
// (proto/phonehost/display/v1).
//
// It owns one connection to the display of every phone that it was told of: it finds the display's socket, shakes hands,
// matches answers to requests, hands packets to the owners of levels, and connects again when a display has been replaced.
// It never starts or stops a display, and never decides who sees what: the first is done by agent/phone, the second by
// agent/stream.
//
// # Finding a display
//
// A display makes its socket ready elsewhere and renames it into <dir>/<id>/display/control.sock, so a socket that exists
// accepts. One inotify instance for all phones reports the rename; nothing polls. After an error that is not "nobody is
// there" the next try waits for a back-off of 100 ms to 5 s or the next rename, whichever comes first. A display serves the
// newest client only, so an agent that starts again simply connects and thereby replaces the dead one.
//
// # Goroutines
//
// A Conn has two goroutines, a reader and a writer, which Conn.Close waits for. The reader calls the owners of levels and
// Options.OnState: these must not block and must not wait for an answer of the same connection. Senders never block on the
// socket: they append to a bounded outbox that the writer empties; a display that does not read for WriteTimeout, or lets
// the outbox grow beyond its bound, loses the connection.
//
// A Registry has one goroutine for inotify and one per tracked phone (its link), which alone reports the phone's changes to
// subscribers, in order. Registry.Close waits for that phone's goroutine, Registry.Shutdown for all.
package display
