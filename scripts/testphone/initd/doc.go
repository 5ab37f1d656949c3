// Package initd is testphone's pid 1, after Android's init: it fills the property store, makes the directories of /data, starts the
// services and starts them again when they end, reaps every orphan, and ends the phone when sys.powerctl says so.
//
// One goroutine, the caller of Run, owns all state. The property service, the log socket and the reader of SIGTERM are goroutines of
// their own that only send to it; Run does not wait for them, because its end is the end of the pid namespace.
// The package mounts nothing and needs no capability: what the OCI spec mounts is there, and the root may be read-only. It writes to
// /dev/socket and /data only.
//
// # How a phone ends
//
//	sys.powerctl=shutdown[,reason]   with CAP_SYS_BOOT: reboot(2) POWER_OFF, the runtime sees 130; without: exit(0)
//	sys.powerctl=reboot[,target]     with CAP_SYS_BOOT: reboot(2) RESTART, the runtime sees 129; without: exit(0)
//	SIGTERM from outside the phone   with CAP_SYS_BOOT: nothing; without: as shutdown,container
//
// In every case the services get SIGTERM, after half of ro.build.shutdown_timeout SIGKILL, then /data is written to the disk.
// persist.sys.boot.reason tells afterwards what was asked for.
//
// # SIGTERM
//
// Whether SIGTERM came from outside is told by its siginfo, which Go's os/signal does not hand out. So init has a signal handler of its
// own, a few lines of assembly, that looks at the sender's pid and writes to an eventfd.
package initd
