// Package volume keeps the /data file systems of phones: one sparse file each, with an ext4 file system in it, so that its size is a
// hard quota and nothing a guest does to its file system reaches the host's.
//
// A volume is in use while a loop device has it. The package attaches loop devices that detach themselves when the last user
// is gone, and never mounts one: runc does, inside the guest only. mkfs and fsck touch only files that no loop device has.
//
// Functions keep no state and may be called from several goroutines, though not twice for one path at a time.
package volume
