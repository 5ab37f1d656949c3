package zygote

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// SocketPath is where the zygote takes requests.
	SocketPath = "/dev/socket/zygote"
	// Link is the app's descriptor of its link to the system server.
	Link = 3

	maxArguments = 64
	maxRequest   = 16 << 10
	entryPoint   = "android.app.ActivityThread"
)

// Request is a process to start.
type Request struct {
	UID, GID int
	Groups   []int
	// Name is the process's name, its whole command line.
	Name string
}

// arguments are those of the request on the socket, and of app_process.
func (r Request) arguments() []string {
	groups := make([]string, len(r.Groups))
	for i, g := range r.Groups {
		groups[i] = strconv.Itoa(g)
	}
	return []string{
		"--setuid=" + strconv.Itoa(r.UID), "--setgid=" + strconv.Itoa(r.GID), "--setgroups=" + strings.Join(groups, ","), "--nice-name=" + r.Name, entryPoint,
	}
}

// parse reads arguments. Root is refused: the zygote starts apps.
func parse(args []string) (Request, error) {
	r := Request{UID: -1, GID: -1}
	var err error
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "--setuid":
			r.UID, err = strconv.Atoi(value)
		case "--setgid":
			r.GID, err = strconv.Atoi(value)
		case "--setgroups":
			for text := range strings.SplitSeq(value, ",") {
				var group int
				if text != "" && err == nil {
					group, err = strconv.Atoi(text)
					r.Groups = append(r.Groups, group)
				}
			}
		case "--nice-name":
			r.Name = value
		case entryPoint:
		default:
			err = errdefs.ErrInvalidArgument
		}
		if err != nil {
			return r, fmt.Errorf("argument %.80q: %w", arg, err)
		}
	}
	if r.UID < 1000 || r.GID < 1000 || r.Name == "" || strings.ContainsAny(r.Name, "\n\x00") {
		return r, fmt.Errorf("uid %d, gid %d, name %.80q: %w", r.UID, r.GID, r.Name, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

// read takes a request and the link off a connection.
func read(conn *net.UnixConn) (Request, *os.File, error) {
	b, oob := make([]byte, maxRequest), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(b, oob)
	if err != nil {
		return Request{}, nil, err
	}
	link, err := descriptor(oob[:oobn])
	if err != nil {
		return Request{}, nil, err
	}
	args, err := lines(bufio.NewReader(io.MultiReader(strings.NewReader(string(b[:n])), io.LimitReader(conn, maxRequest))))
	if err != nil {
		link.Close()
		return Request{}, nil, err
	}
	r, err := parse(args)
	if err != nil {
		link.Close()
		return Request{}, nil, err
	}
	return r, link, nil
}

// lines reads the number of arguments and the arguments.
func lines(r *bufio.Reader) ([]string, error) {
	first, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	count, err := strconv.Atoi(strings.TrimSuffix(first, "\n"))
	if err != nil || count < 1 || count > maxArguments {
		return nil, fmt.Errorf("a request with %.20q arguments: %w", first, errdefs.ErrInvalidArgument)
	}
	args := make([]string, count)
	for i := range args {
		if args[i], err = r.ReadString('\n'); err != nil {
			return nil, err
		}
		args[i] = strings.TrimSuffix(args[i], "\n")
	}
	return args, nil
}

// descriptor takes the file out of a control message.
func descriptor(oob []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err == nil && len(fds) == 1 {
			unix.CloseOnExec(fds[0])
			return os.NewFile(uintptr(fds[0]), "link"), nil
		}
	}
	return nil, fmt.Errorf("a request without its link: %w", errdefs.ErrInvalidArgument)
}

// Start asks the zygote at a socket, empty for SocketPath, for a process with the link, and returns its pid. The link stays the caller's to
// close. Error: errdefs.ErrUnavailable without a zygote or when it could not fork.
func Start(socket string, r Request, link *os.File) (int, error) {
	if socket == "" {
		socket = SocketPath
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return 0, fmt.Errorf("zygote: %w: %w", err, errdefs.ErrUnavailable)
	}
	defer conn.Close()
	args := r.arguments()
	text := strconv.Itoa(len(args)) + "\n" + strings.Join(args, "\n") + "\n"
	if _, _, err := conn.WriteMsgUnix([]byte(text), unix.UnixRights(int(link.Fd())), nil); err != nil {
		return 0, fmt.Errorf("zygote: %w: %w", err, errdefs.ErrUnavailable)
	}
	var answer [5]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it does not answer")
		}
		return 0, fmt.Errorf("zygote: %w: %w", err, errdefs.ErrUnavailable)
	}
	pid := int32(binary.BigEndian.Uint32(answer[:]))
	if pid < 0 {
		return 0, fmt.Errorf("zygote: it cannot fork: %w", errdefs.ErrUnavailable)
	}
	return int(pid), nil
}
