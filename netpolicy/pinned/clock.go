package pinned

import (
	"time"

	"golang.org/x/sys/unix"
)

// Moment is one moment of both clocks.
type Moment struct {
	// Kernel is in nanoseconds of CLOCK_MONOTONIC, which maps have.
	Kernel uint64
	// Wall is the wall clock's.
	Wall time.Time
}

// Now is this moment.
func Now() Moment {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // there is no kernel without it
	return Moment{Kernel: uint64(ts.Nano()), Wall: time.Now()}
}

// Time is a time of the kernel's on the wall clock; 0 is the zero Time.
func (m Moment) Time(kernel uint64) time.Time {
	if kernel == 0 {
		return time.Time{}
	}
	return m.Wall.Add(time.Duration(int64(kernel - m.Kernel)))
}

// KernelTime is a time of the wall clock on the kernel's; what was before its beginning is 1.
func (m Moment) KernelTime(t time.Time) uint64 {
	return uint64(max(int64(m.Kernel)+int64(t.Sub(m.Wall)), 1))
}
