// Package app is the body of every testphone app: a real process under the app's uid that does what it is told. No code of an APK is run;
// each app has these components besides those of its manifest, whatever the APK:
//
//	activity, receiver   .Net       connects to --es url tcp://HOST:PORT, udp://HOST:PORT, or fetches http://...
//	activity             .Loop      keeps a processor busy: --ei threads N, 1 by default
//	activity             .Spawn     starts the services .Worker and .Isolated
//	service              .Worker    a process PKG:worker, of the same uid
//	service              .Isolated  a process PKG:isolated of an isolated uid, 99000 and above
//
// All other activities only stay. Messages between a process and the system server go over the link, descriptor 3, as JSON, one a line.
// The end of the link is the end of the process, on both sides.
package app
