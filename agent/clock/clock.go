// Package clock tells when the host's wall clock was set.
//
// It holds no state. The goroutine that Steps starts ends with its context.
package clock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Steps sends a value whenever somebody sets the host's wall clock (settimeofday, clock_settime, a step by NTP; not when it is merely
// made to run a little faster or slower), and after the host was suspended, until ctx ends, when the channel is closed. Several steps may
// come as one value. The error is the kernel's where it has no timerfd.
func Steps(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch the wall clock: %w", err)
	}
	if err := arm(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("watch the wall clock: %w", err), unix.Close(fd))
	}
	steps := make(chan struct{}, 1)
	go follow(ctx, os.NewFile(uintptr(fd), "timerfd"), steps)
	return steps, nil
}

// arm sets the timer to a moment that is not meant to come; the kernel cancels it when the clock is set (timerfd_create(2)).
func arm(fd int) error {
	far := unix.ItimerSpec{Value: unix.NsecToTimespec(time.Now().AddDate(100, 0, 0).UnixNano())}
	return unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &far, nil)
}

// follow reads the timer until ctx ends.
func follow(ctx context.Context, f *os.File, steps chan<- struct{}) {
	defer close(steps)
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })() // a file that is closed has no deadline
	var expirations [8]byte
	for ctx.Err() == nil {
		_, err := f.Read(expirations[:])
		if ctx.Err() != nil || err != nil && !errors.Is(err, unix.ECANCELED) {
			return
		}
		if err := rearm(f); err != nil {
			return
		}
		select {
		case steps <- struct{}{}:
		default:
		}
	}
}

func rearm(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var armErr error
	if err := raw.Control(func(fd uintptr) { armErr = arm(int(fd)) }); err != nil {
		return err
	}
	return armErr
}
