package system

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// SocketPath is where the system server takes commands.
const SocketPath = "/dev/socket/system"

const (
	maxCommand  = 64 << 10
	descriptors = 3 // standard input, output and error
)

// Call runs a command of a service ("package", "activity") in the system server at a socket, empty for SocketPath, with the caller's
// streams, and returns its exit code. Streams that are not files are copied. Error: errdefs.ErrUnavailable without a server, or when it ends.
func Call(ctx context.Context, socket, service string, args []string, in io.Reader, out, errs io.Writer) (int, error) {
	if socket == "" {
		socket = SocketPath
	}
	command, err := json.Marshal(append([]string{service}, args...))
	if err != nil || len(command) > maxCommand {
		return 0, fmt.Errorf("a command of %d bytes: %w", len(command), errdefs.ErrInvalidArgument)
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return 0, fmt.Errorf("system server: %w: %w", err, errdefs.ErrUnavailable)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	streams, err := openStreams(in, out, errs)
	if err != nil {
		return 0, err
	}
	defer streams.wait()
	rights := unix.UnixRights(int(streams.files[0].Fd()), int(streams.files[1].Fd()), int(streams.files[2].Fd()))
	_, _, err = conn.WriteMsgUnix(append(binary.LittleEndian.AppendUint32(nil, uint32(len(command))), command...), rights, nil)
	streams.handOver()
	if err != nil {
		return 0, fmt.Errorf("system server: %w: %w", err, errdefs.ErrUnavailable)
	}
	var code [4]byte
	if _, err := io.ReadFull(conn, code[:]); err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, fmt.Errorf("system server: it ended before the command: %w", errdefs.ErrUnavailable)
	}
	return int(int32(binary.LittleEndian.Uint32(code[:]))), nil
}

// streams are the files of a command; pipes where the caller's streams are not files.
type streams struct {
	files [descriptors]*os.File
	owned []*os.File
	input *os.File // our end of the input's pipe
	work  sync.WaitGroup
}

func openStreams(in io.Reader, out, errs io.Writer) (*streams, error) {
	s := &streams{}
	if err := s.open(in, out, errs); err != nil {
		s.handOver()
		s.wait()
		return nil, err
	}
	return s, nil
}

func (s *streams) open(in io.Reader, out, errs io.Writer) error {
	if f, ok := in.(*os.File); ok {
		s.files[0] = f
	} else {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		s.files[0], s.input, s.owned = r, w, append(s.owned, r)
		s.work.Go(func() {
			_, _ = io.Copy(w, in) // a command need not read all of its input
			w.Close()
		})
	}
	for i, to := range []io.Writer{out, errs} {
		if f, ok := to.(*os.File); ok {
			s.files[1+i] = f
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		s.files[1+i], s.owned = w, append(s.owned, w)
		s.work.Go(func() {
			_, _ = io.Copy(to, r)
			r.Close()
		})
	}
	return nil
}

// handOver closes our copies of what the server has now.
func (s *streams) handOver() {
	for _, f := range s.owned {
		f.Close()
	}
}

// wait returns when all output is copied.
func (s *streams) wait() {
	if s.input != nil {
		s.input.Close()
	}
	s.work.Wait()
}

// request is a command that has come.
type request struct {
	words []string // the service and its arguments
	files [descriptors]*os.File
	fds   [descriptors]int // their numbers, since asking a file for it may change how it reads
	uid   int
}

func (r *request) close() {
	for _, f := range r.files {
		if f != nil {
			f.Close()
		}
	}
}

// receive takes a command off a connection.
func receive(conn *net.UnixConn) (*request, error) {
	head, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4*descriptors))
	n, oobn, _, _, err := conn.ReadMsgUnix(head, oob)
	if err != nil {
		return nil, err
	}
	r := &request{}
	if err := r.take(oob[:oobn]); err != nil {
		r.close()
		return nil, err
	}
	if err := r.read(conn, head, n); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// take takes the files out of the control messages.
func (r *request) take(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	count := 0
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			if count < descriptors {
				r.files[count], r.fds[count] = os.NewFile(uintptr(fd), "stream"), fd
			} else {
				unix.Close(fd)
			}
			count++
		}
	}
	if count != descriptors {
		return fmt.Errorf("a command with %d files: %w", count, errdefs.ErrInvalidArgument)
	}
	return nil
}

// read reads the words. n bytes of the head are there.
func (r *request) read(conn *net.UnixConn, head []byte, n int) error {
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return err
	}
	size := binary.LittleEndian.Uint32(head)
	if size > maxCommand {
		return fmt.Errorf("a command of %d bytes: %w", size, errdefs.ErrInvalidArgument)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if err := json.Unmarshal(b, &r.words); err != nil || len(r.words) == 0 {
		return errors.Join(fmt.Errorf("a command that is none: %w", errdefs.ErrInvalidArgument), err)
	}
	var err error
	r.uid, err = peerUID(conn)
	return err
}

func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Uid), nil
}
