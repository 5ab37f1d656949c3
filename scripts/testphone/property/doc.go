// Package property is testphone's property store and the service in front of it, after Android's property service.
//
// The package owns the names, the values and their rules: legal names, values of at most 91 bytes unless the name begins with "ro.",
// names that begin with "ro." written once, names that begin with "persist." kept in a file below /data. It knows nothing of
// services or of power: init subscribes to the names that mean something to it.
//
// A Store is safe for concurrent use; one mutex guards all of it and is never held while a subscriber or a socket is waited for.
// The Server runs one goroutine per connection and waits for them before Serve returns.
//
// # Wire format
//
// The socket is a Unix stream socket. All numbers are little endian, a string is its length as uint32 and its bytes.
// A request begins with a uint32 command, an answer with a uint32 result:
//
//	0x00020001 SET   name value     -> result                         (Android's PROP_MSG_SETPROP2)
//	0x00ff0001 GET   name           -> result value
//	0x00ff0002 LIST                 -> result count {name value}...
//	0x00ff0003 WATCH prefix         -> result {name value}...          (first what is set, then every change, without end)
//
// Android reads properties from shared memory; testphone reads them through the socket too, hence the three commands of its own.
// The results are Android's PROP_SUCCESS and PROP_ERROR_* numbers.
package property
