// Package apk reads what an Android application package says of itself: its name, versions, label, what it asks of a device, and which
// signatures it carries. It installs nothing and opens nothing; an APK is an io.ReaderAt and its size.
//
// # What is read
//
// An APK is a zip archive. Of it are read the archive's directory, AndroidManifest.xml (in Android's binary form), resources.arsc as far
// as the manifest refers to it, the APK Signing Block before the directory, and META-INF/*.RSA, .DSA and .EC. Code is never looked at.
//
// # Signatures are seen, not verified
//
// Read tells which signature schemes are present and the digests of the signers' certificates, so that two APKs can be compared and
// an unsigned one is noticed before it is sent to a hundred phones. It does not verify them: that is the work of the guest's package
// manager, which refuses an APK whose signature is wrong. Whoever decides about trust by Info.Certificates must know that. Scheme v4 is
// not in an APK but in a file beside it, so it is not reported.
//
// # Limits
//
// Input may be hostile. Memory and time are bounded by these limits, whatever the size of the file; what exceeds one is refused with
// errdefs.ErrInvalidArgument and the limit's name:
//
//	zip directory          16 MiB, 65535 entries (zip64 is refused, as Android's signature schemes refuse it)
//	AndroidManifest.xml     8 MiB unpacked
//	resources.arsc         64 MiB unpacked, 65536 chunks, 4 Mi steps of looking up
//	decoded strings        64 KiB each, 16 MiB in all
//	APK Signing Block      16 MiB, 1024 entries, 1 MiB for each signature scheme, 64 signers
//	META-INF signatures    16 files of 256 KiB
//	references             20 resources in a row, as in Android
//	native ABIs            32
//	activities             8192
//
// Elements may nest as deep as the manifest's size allows: nothing is kept for those that are not read. At most the manifest and
// resources.arsc are in memory at a time, 72 MiB, besides the directory's names.
//
// The facts about the formats, with their sources, are in docs/apps.md. Everything is safe for concurrent use; nothing is kept between calls.
package apk
