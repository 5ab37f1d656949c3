package datapath

import (
	"time"

	"golang.org/x/sys/unix"
)

// moment is one moment of both clocks: the kernel's monotonic one, which maps have, and the wall clock.
type moment struct {
	kernel uint64
	wall   time.Time
}

func now() moment {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // there is no kernel without it
	return moment{kernel: uint64(ts.Nano()), wall: time.Now()}
}

// time is a time of the kernel's on the wall clock; 0 is the zero Time.
func (m moment) time(kernel uint64) time.Time {
	if kernel == 0 {
		return time.Time{}
	}
	return m.wall.Add(time.Duration(int64(kernel - m.kernel)))
}

// kernelTime is a time of the wall clock on the kernel's; what was before its beginning is 1.
func (m moment) kernelTime(t time.Time) uint64 {
	return uint64(max(int64(m.kernel)+int64(t.Sub(m.wall)), 1))
}
