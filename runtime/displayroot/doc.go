// Package displayroot assembles the root directory of displays: the phone-display binary, the shared libraries that it needs, and
// nothing else of the host. The host's own services (package service) have such roots too.
//
// A root is named after what is in it: DIR/HASH, where HASH covers the path and the content of every file. It is built beside its place and
// moved there by rename, so a root that exists is complete, and it is never changed afterwards: running displays keep theirs when
// binary or libraries of the host are upgraded, and the next display gets a new one. Prune removes roots that nothing uses. DIR/.stamp
// tells of which files, by inode and times, the last root was made: they are read again only when one of them has changed.
//
// Libraries are found as the dynamic loader finds them: DT_NEEDED of the binary and of every library in turn, looked up in DT_RUNPATH,
// the directories of /etc/ld.so.conf and the architecture's own. What the binary opens by dlopen is not in its DT_NEEDED; Config
// names it.
//
// Calls for the same directory must not run at once; the engine makes one at a time.
package displayroot
