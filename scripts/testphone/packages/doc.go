// Package packages is testphone's package manager: which apps are installed, under which uids, and how an installation becomes one. It
// keeps Android 14's contracts in the file system, which is what a host sees of it.
//
//	/data/app/vmdlN.tmp/                    a session N: APKs are streamed here
//	/data/app/~~RANDOM==/PKG-RANDOM==/      an installed app: base.apk, split_NAME.apk; it was renamed from the session's directory
//	/data/system/packages.list              read by whoever wants to know the uids; one line for each package with an uid
//	/data/system/packages.json              the manager's own memory (Android's is packages.xml)
//	/data/data/PKG, /data/user/N/PKG        an app's data, for user 0 and the others; of the app's uid, mode 0700
//	/system/priv-app, /system/app           what the image brings
//
// Both files of /data/system are written whole to another name, synced and renamed, first the memory and then the list; so neither is ever
// seen half written. packages.list has Android's ten fields (libpackagelistparser; Settings.writePackageListLPr).
//
// # When the power fails
//
// An installation counts from the moment in which packages.json is renamed. What a moment before was renamed into place but is not named
// there, and every session's directory, is removed by Open; so are data directories of packages that are not installed. packages.list is
// written again by Open.
//
// # Uids
//
// App ids begin at 10000. A new package takes the lowest that is free and not below one that was given back since the last boot, as
// AppIdSettingMap does. It keeps it over updates. Packages with one sharedUserId share it.
//
// A Manager is safe for concurrent use. Streaming into sessions goes on side by side; what changes the packages is done one after the other.
package packages
