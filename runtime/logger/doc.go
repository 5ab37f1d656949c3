// Package logger keeps what a phone's container prints: it writes the log files and reads them again.
//
// The writer runs in a process of its own, phone-log, which the shim starts for each container: so logs do not depend on the
// agent, and a container never waits for a disk. It reads always. What comes faster than the rate, or than the disk takes it, is
// dropped by whole lines and counted, and the count is written into the log.
//
// A log is two files, PATH and the older PATH.1, each at most Config.MaxBytes. A line of them is
//
//	2026-11-23T06:37:01.123456789Z stdout F text
//
// time in UTC, stream (stdout, stderr, or log for the writer's own remarks), F for the end of a line or P for a part of a line
// longer than 16 KiB, and the text as it was printed: any bytes but a newline. Lines of one stream keep their order.
//
// The package uses only the standard library and golang.org/x/sys, since phone-log must be small.
package logger
