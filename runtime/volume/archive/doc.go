// Package archive writes the files of a data volume as one compressed stream, and makes files of such a stream again.
//
// An archive holds files, never a file system: it can be taken into a volume of any size that is large enough, on another host,
// by a later release. It is a tar archive (pax) compressed with zstd, and any tar that knows both reads it, xattrs and holes included:
//
//	manifest.json     what the archive is of and how much it holds; readable without the rest
//	data/             the root directory of the volume
//	data/...          everything in it, each directory before what is in it
//	sha256            the digest of every byte of the tar before this entry's header, in hexadecimal digits
//	(end)             the two empty blocks of a tar; nothing follows
//
// Kept are owners, modes, times of change to the nanosecond, extended attributes (security.*, user.*, trusted.* and POSIX ACLs), hard
// links, symbolic links, FIFOs, holes, empty directories and names of any bytes. Device nodes and sockets, which mean nothing elsewhere,
// and what lies deeper than any path reaches are left out and counted.
//
// A stream is not trusted. Whatever it says is checked before it is acted on: it can make nothing outside the directory that it is
// unpacked in, never follows a link, and cannot be larger than its manifest says nor than the caller allows. The digest finds
// damage; it is no signature.
//
// Functions keep no state. Memory is bounded whatever a tree or a stream holds: 64 MiB or so, most of it zstd's.
package archive
