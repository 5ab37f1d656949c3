package system

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"github.com/phonehost/phonehost/scripts/testphone/packages"
)

const (
	shellUID  = 2000
	systemUID = 1000

	// maxCommands is how many commands run at once; more wait.
	maxCommands = 32
)

// Config is what Serve needs.
type Config struct {
	// Root is put before /data and /system; empty on a phone.
	Root string
	// Socket is where commands are taken, Zygote where processes are asked for; empty for the usual places.
	Socket, Zygote string
	// SDK and ABIs are those of the phone.
	SDK  int
	ABIs []string
	// Chown gives a file to a uid and its group; nil for the system call.
	Chown func(path string, uid, gid int) error
	// Persistent says that the image's own apps are started and kept running.
	Persistent bool
	// Ready is called when commands are taken and the persistent apps have been started; nil does nothing. An error ends the server.
	Ready func(ctx context.Context) error
	// Shown is told the labels of the apps that have an activity, whenever they change; nil does nothing.
	Shown func(ctx context.Context, labels []string)
	// Printf takes messages for the log.
	Printf func(format string, args ...any)
}

// Server is a system server.
type Server struct {
	cfg        Config
	packages   *packages.Manager
	activities *activities
}

// Serve opens the packages and takes commands until ctx ends, when it returns nil. All processes of apps end with it.
func Serve(ctx context.Context, cfg Config) error {
	if cfg.Socket == "" {
		cfg.Socket = SocketPath
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Server{cfg: cfg}
	s.activities = newActivities(ctx, s)
	var err error
	s.packages, err = packages.Open(packages.Config{
		Root: cfg.Root, SDK: cfg.SDK, ABIs: cfg.ABIs, Chown: cfg.Chown, Stop: s.activities.stopPackage, Printf: cfg.Printf,
	})
	if err != nil {
		cancel()
		return err
	}
	defer s.activities.wait()
	defer cancel()
	l, err := listen(cfg.Socket)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	if cfg.Persistent {
		s.startPersistent(ctx)
	}
	accepted := make(chan error, 1)
	go func() { accepted <- s.accept(ctx, l) }()
	if cfg.Ready != nil {
		if err := cfg.Ready(ctx); err != nil && ctx.Err() == nil {
			l.Close()
			return errors.Join(err, <-accepted)
		}
	}
	return <-accepted
}

func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("system server: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("system server: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("system server: %w", err)
	}
	return l, nil
}

// accept serves commands until the listener is closed, and waits for those under way.
func (s *Server) accept(ctx context.Context, l *net.UnixListener) error {
	var commands sync.WaitGroup
	defer commands.Wait()
	slots := make(chan struct{}, maxCommands)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("system server: %w", err)
		}
		commands.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, conn)
		})
	}
}

// serve runs one command. It is cancelled when the caller goes away.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unblock := context.AfterFunc(ctx, func() { conn.Close() })
	defer unblock()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return
	}
	r, err := receive(conn)
	if err != nil {
		s.cfg.Printf("a command is refused: %v", err)
		return
	}
	defer r.close()
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1)) // the caller sends nothing more
		cancel()
	}()
	code := s.run(ctx, r)
	r.close() // all output is written before the code is told
	_, err = conn.Write(binary.LittleEndian.AppendUint32(nil, uint32(int32(code))))
	if err != nil && ctx.Err() == nil {
		s.cfg.Printf("answer to %s: %v", r.words[0], err)
	}
	conn.Close()
	<-gone
}

// run runs a command and returns its exit code.
func (s *Server) run(ctx context.Context, r *request) int {
	sh := &shell{server: s, in: r.fds[0], out: r.files[1], err: r.files[2], args: r.words[1:]}
	if r.uid != 0 && r.uid != systemUID && r.uid != shellUID && r.uid != os.Geteuid() {
		sh.errorf("java.lang.SecurityException: uid %d does not have permission to use service %s\n", r.uid, r.words[0])
		return 255
	}
	switch r.words[0] {
	case "package":
		return sh.run(ctx, packageCommands)
	case "activity":
		return sh.run(ctx, activityCommands)
	}
	sh.errorf("cmd: Can't find service: %s\n", r.words[0])
	return 20
}
