package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/phonehost/phonehost/scripts/vm/control"
	"golang.org/x/sys/unix"
)

// plumbing is what connects a program: our ends and its own.
type plumbing struct {
	input  *os.File // nil: none
	master *os.File // of a terminal, nil without one
	output []output
	theirs []*os.File
}

// output is one stream that the program writes.
type output struct {
	file   *os.File
	stderr bool
}

func (p *plumbing) closeTheirs() {
	for _, f := range p.theirs {
		f.Close()
	}
}

// close closes what copy does not close by itself.
func (p *plumbing) close() {
	if p.input != nil {
		p.input.Close()
	}
}

// closeOutput closes the outputs of a program that was not started.
func (p *plumbing) closeOutput() {
	for _, o := range p.output {
		o.file.Close()
	}
}

// pipes connects cmd to pipes.
func pipes(cmd *exec.Cmd, req control.Request) (p plumbing, err error) {
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	if req.Input {
		r, w := pipe()
		cmd.Stdin, p.input, p.theirs = r, w, append(p.theirs, r)
	}
	r, w := pipe()
	p.output, p.theirs = append(p.output, output{file: r}), append(p.theirs, w)
	cmd.Stdout, cmd.Stderr = w, w
	if !req.Merge {
		r, w := pipe()
		p.output, p.theirs = append(p.output, output{file: r, stderr: true}), append(p.theirs, w)
		cmd.Stderr = w
	}
	if err != nil {
		p.closeTheirs()
		p.close()
		p.closeOutput()
		return plumbing{}, fmt.Errorf("make pipes: %w", err)
	}
	return p, nil
}

// terminal gives cmd a new terminal.
func terminal(cmd *exec.Cmd, size control.Size) (plumbing, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return plumbing{}, fmt.Errorf("make a terminal: %w", err)
	}
	var number int
	err = withFD(master, func(fd int) (err error) {
		if number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
			return err
		}
		return unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	})
	if err == nil {
		err = setSize(master, size)
	}
	var slave *os.File
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return plumbing{}, fmt.Errorf("make a terminal: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = false, true, true
	return plumbing{master: master, output: []output{{file: master}}, theirs: []*os.File{slave}}, nil
}

func setSize(master *os.File, size control.Size) error {
	return withFD(master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: size.Columns, Row: size.Rows})
	})
}

// withFD calls do with the descriptor, which stays one that does not block, as Fd would not leave it.
func withFD(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) { err = do(int(fd)) }), err)
}

// copy starts the goroutines that move bytes, and returns a channel for each output that is closed when all that the program
// wrote has been sent.
func (p *plumbing) copy(h *handler, streams control.ExecIO, exited <-chan struct{}) []<-chan struct{} {
	in := p.input
	if p.master != nil {
		in = p.master
	}
	if in != nil && streams.Input != nil {
		h.leftovers.Go(func() { // ends when the input does, at the latest with the stream
			io.Copy(in, streams.Input)
			if in == p.input {
				in.Close()
			}
		})
	}
	var all []<-chan struct{}
	for _, o := range p.output {
		done := make(chan struct{})
		all = append(all, done)
		w := streams.Stdout
		if o.stderr {
			w = streams.Stderr
		}
		h.leftovers.Go(func() {
			defer o.file.Close()
			drain(o.file, w, p.master != nil, exited)
			close(done)
			io.Copy(io.Discard, o.file) // a child that lives on must not be ended by SIGPIPE
		})
	}
	return all
}

// hangUpGrace is how long a terminal may take to end after its session's leader has.
const hangUpGrace = 500 * time.Millisecond

// drain copies what a program writes, until its end and what lies in the pipe then, which children that live on may hold. A terminal
// hands on what was written to it a moment later, and then ends by itself, with its session; but not for as long as a child that
// does not mind a hang-up has it.
func drain(r *os.File, w io.Writer, terminal bool, exited <-chan struct{}) {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-exited:
		case <-stop:
			return
		}
		if terminal {
			select {
			case <-time.After(hangUpGrace):
			case <-stop:
				return
			}
		}
		r.SetReadDeadline(time.Unix(1, 0)) // ends the read under way
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if _, gone := w.Write(buf[:n]); gone != nil {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return
		}
	}
	r.SetReadDeadline(time.Time{})
	raw, err := r.SyscallConn()
	if err != nil {
		return
	}
	for {
		n := 0
		raw.Read(func(fd uintptr) bool { // never waits
			n, err = ignoringEINTR(unix.Read, int(fd), buf)
			return true
		})
		if n <= 0 || err != nil {
			return
		}
		if _, gone := w.Write(buf[:n]); gone != nil {
			return
		}
	}
}
