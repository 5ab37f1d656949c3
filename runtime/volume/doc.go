// Package volume keeps the /data file systems of phones: one sparse file each, with an ext4 file system in it, so that its size is a
// hard quota and nothing a guest does to its file system reaches the host's.
//
// A volume is in use while a loop device has it. The package attaches loop devices that detach themselves when the last user
// is gone. A guest's mount is runc's, inside the guest only; the package's own mounts are detached ones, to which no path leads, so
// nothing of a volume is ever in a mount namespace of the host.
//
// # Who may touch an image
//
// Whoever changes an image holds an exclusive flock(2) on it, whoever only reads it whole a shared one. Such a lock belongs to the open
// file and not to a process, and the kernel lets go of it with the last reference to that open file:
//
//	loop device   configured with the locked file: the kernel's reference keeps the lock for as long as the device is attached, for a
//	              guest's mount just as for our own, whether the agent lives or not
//	e2fsck, ...   inherit the locked file: the lock lasts as long as the program, also when the agent that started it dies
//	clone         shared, for as long as the source is read
//
// So two loop devices never have the same image, no program works on an image that is mounted, and a crash at any point leaves
// nothing locked. Loop devices of others (losetup by hand) hold no lock; they are found in sysfs and respected as well.
//
// # Files
//
//	PATH        the volume, complete
//	PATH.new    one being made, or a copy being mended; the next attempt replaces it
//
// Functions keep no state and may be called from several goroutines, though calls that change the same volume wait for each other or
// are refused.
package volume
