// Package system is testphone's system server: the package manager and the activity manager, and the commands that ask them. The zygote
// starts it, and it has the zygote start the apps.
//
// `pm`, `am` and `cmd` hand their arguments and their standard streams to it over /dev/socket/system, as Android's do over binder, and
// print nothing themselves: an installation streams from the caller's standard input into the session's file. What is printed is what
// Android 14 prints, errors of Java included, since hosts read it.
//
// It runs as root, where Android's has uid 1000 and a second daemon, installd, for what needs root.
//
// # Processes
//
// An app's process has one link to the server, a pair of sockets. It says that it has begun, takes intents and tells their results; its end
// is seen by the end of the link, so the pid of a process that has a record is never anybody else's. Each record has a goroutine that reads
// its link; Serve waits for all.
package system
