package zygote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// AppEnv is set in the environment of an app, to its process's name. The program that finds it is to be the app.
const AppEnv = "TESTPHONE_APP"

// requestTime is how long a request may take to come.
const requestTime = 5 * time.Second

// systemUID is that of Android's system server.
const systemUID = 1000

// Config is what Serve needs.
type Config struct {
	// Socket is where requests are taken; empty for SocketPath.
	Socket string
	// Program is executed as app_process: it is to call Specialize.
	Program string
	// SystemServer is the program that is started as root when requests are taken, and without which the zygote ends too; none if empty.
	SystemServer string
	// Printf takes messages for the log.
	Printf func(format string, args ...any)
}

// server is a zygote. mu guards what follows it: a child is reaped only after its number is known.
type server struct {
	cfg Config

	mu       sync.Mutex
	children map[int]string // names by pid
	system   int            // the pid of the system server
}

// Serve is the zygote until ctx ends. It reaps every child of the process.
func Serve(ctx context.Context, cfg Config) error {
	if cfg.Socket == "" {
		cfg.Socket = SocketPath
	}
	s := &server{cfg: cfg, children: map[int]string{}}
	if err := os.Remove(cfg.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("zygote: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: cfg.Socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("zygote: %w", err)
	}
	if err := errors.Join(os.Chmod(cfg.Socket, 0o660), giveTo(cfg.Socket, systemUID)); err != nil {
		l.Close()
		return fmt.Errorf("zygote: %w", err)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	var work sync.WaitGroup
	defer work.Wait()
	outer := ctx
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	if err := s.startSystem(); err != nil {
		l.Close()
		return err
	}
	work.Go(func() { defer cancel(); s.reapAll(ctx, ended) })
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			switch {
			case outer.Err() != nil:
				return nil
			case ctx.Err() != nil:
				return errors.New("zygote: the system server has ended")
			}
			return fmt.Errorf("zygote: %w", err)
		}
		s.answer(conn)
	}
}

// giveTo lets the system server use a socket. Without the capability for that only root uses it.
func giveTo(path string, gid int) error {
	if err := os.Chown(path, os.Geteuid(), gid); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	return nil
}

// answer serves one request. Requests are served one after the other, as by Android's.
func (s *server) answer(conn *net.UnixConn) {
	defer conn.Close()
	if err := allowed(conn); err != nil {
		s.cfg.Printf("a request is refused: %v", err)
		return
	}
	err := conn.SetDeadline(time.Now().Add(requestTime))
	if err != nil {
		s.cfg.Printf("a request is refused: %v", err)
		return
	}
	r, link, err := read(conn)
	if err != nil {
		s.cfg.Printf("a request is refused: %v", err)
		return
	}
	defer link.Close()
	pid, err := s.fork(r, link)
	if err != nil {
		s.cfg.Printf("fork %s: %v", r.Name, err)
		pid = -1
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(int32(pid))), 0)); err != nil {
		s.cfg.Printf("answer for %s: %v", r.Name, err)
	}
}

// allowed lets root, the system and whoever runs the zygote ask.
func allowed(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if uid := int(cred.Uid); uid != 0 && uid != systemUID && uid != os.Geteuid() {
		return fmt.Errorf("uid %d may not start processes", uid)
	}
	return nil
}

// fork starts app_process, as root.
func (s *server) fork(r Request, link *os.File) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(s.cfg.Program, append([]string{"app_process"}, r.arguments()...), &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{null.Fd(), 1, 2, link.Fd()},
	})
	if err == nil {
		s.children[pid] = r.Name
	}
	return pid, err
}

// startSystem starts the system server.
func (s *server) startSystem() error {
	if s.cfg.SystemServer == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(s.cfg.SystemServer, []string{"system_server"}, &syscall.ProcAttr{Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return fmt.Errorf("zygote: system_server: %w", err)
	}
	s.children[pid], s.system = "system_server", pid
	return nil
}

// reapAll collects children whenever one has ended. It returns when ctx ends or the system server has ended.
func (s *server) reapAll(ctx context.Context, ended <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended:
		}
		for s.reapOne() {
		}
		if s.systemEnded() {
			return
		}
	}
}

func (s *server) systemEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.children[s.system]
	return s.system != 0 && !there
}

// reapOne collects a child and says how it ended. It returns false when none has ended.
func (s *server) reapOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
	if err != nil || pid <= 0 {
		return errors.Is(err, unix.EINTR)
	}
	name := s.children[pid]
	delete(s.children, pid)
	switch {
	case status.Signaled():
		s.cfg.Printf("Process %d (%s) exited due to signal %d (%s)", pid, name, status.Signal(), strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG"))
	default:
		s.cfg.Printf("Process %d (%s) exited cleanly (%d)", pid, name, status.ExitStatus())
	}
	return true
}
