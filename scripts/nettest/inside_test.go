package nettest

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// order is what the process in the phone is told to do: one of its fields.
type order struct {
	// Frames are sent as they are by eth0, one after another, Times over.
	Frames [][]byte
	Times  int
	// Large frames have struct virtio_net_hdr before them, which says how they are to be cut.
	Large bool
	// Args are a program and its arguments.
	Args []string
	// Call is the name of one of calls, or of own.
	Call string
}

// outcome is what came of an order: what a program printed and its exit code, or the error of a call.
type outcome struct {
	Out  string
	Exit int
	Err  string
}

// inside is the process in the phone: it carries out orders until its input ends.
func inside() error {
	in, out := gob.NewDecoder(os.Stdin), gob.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := out.Encode(o.carryOut()); err != nil {
			return err
		}
	}
}

func (o order) carryOut() outcome {
	var err error
	switch {
	case len(o.Frames) > 0:
		err = o.sendFrames()
	case len(o.Args) > 0:
		return run(o.Args)
	default:
		call, found := calls[o.Call]
		if !found {
			call, found = own[o.Call]
		}
		if !found {
			err = fmt.Errorf("there is no call %q", o.Call)
			break
		}
		err = call()
	}
	if err != nil {
		return outcome{Err: err.Error()}
	}
	return outcome{}
}

func run(args []string) outcome {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return outcome{Out: string(out), Exit: exit.ExitCode()}
	case err != nil:
		return outcome{Err: err.Error()}
	}
	return outcome{Out: string(out)}
}

// sendFrames sends from one processor, so that the frames arrive in their order.
func (o order) sendFrames() error {
	runtime.LockOSThread()
	var cpus unix.CPUSet
	cpus.Set(0)
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("stay on a processor: %w", err)
	}
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if o.Large {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return err
		}
	}
	for range max(o.Times, 1) {
		for i, f := range o.Frames {
			if err := send(fd, &unix.SockaddrLinklayer{Ifindex: eth0.Index}, f); err != nil {
				return fmt.Errorf("frame %d of %d bytes: %w", i, len(f), err)
			}
		}
	}
	return nil
}

// send sends a frame, again and again while there is no room for it.
func send(fd int, to unix.Sockaddr, frame []byte) error {
	for {
		err := unix.Sendto(fd, frame, 0, to)
		if !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		runtime.Gosched()
	}
}
