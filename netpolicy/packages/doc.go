// Package packages knows which app of a phone has which uid: it reads the list of packages that Android's package manager keeps, and
// follows it while the phone runs.
//
//	/data/system/packages.list    a package a line: name, uid, eight more fields; replaced by rename whenever packages change
//
// A Table is one such list. It says what app ids its packages have (Package.AppID), and which packages share one. The list covers the app
// ids of all Android users: the uid of a process is user*100000 + app id (SplitUID), and the list's are those of user 0.
//
// # Everything here is the guest's
//
// The guest writes the file, owns the directories and may mount over both. What this package does with them holds whatever they are:
//
//   - The way to the list begins at the guest's root and follows no symbolic link (openat2: RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS); below
//     /data it does not cross a mount either. So nothing but a file of the guest's /data is ever read.
//   - The file is looked at before it is opened, and only a regular one is, without waiting for anybody (pipes, devices, leases).
//   - MaxBytes and MaxPackages bound what is taken in. Names are what Android's installer accepts, so they can be printed.
//   - A file system that does not answer (FUSE, whose server is the guest's) holds one goroutine and one thread until the guest ends, and
//     nobody else: Follow says so and goes on. Its own work is bounded: a share of the time however fast the guest writes.
//
// A guest's root may of course write a list of lies there. That is no more than it can do anyway: see docs/app-lists.md.
//
// # Following
//
// A Watcher is one inotify instance for all phones of a host. Follow looks at the list at once, when something changes in the directories
// that lead to it, and every Recheck: for a mount that appears over a directory tells nobody, and a host whose inotify watches are used up gives none.
// What it delivers are whole lists, and errors that last.
//
// Tables are immutable and may be shared. The package knows nothing of lists of apps, nor of the kernel's programs.
package packages
