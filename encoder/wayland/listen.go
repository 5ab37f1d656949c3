package wayland

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// listen makes the socket under another name and renames it, so that whoever sees it can connect. Every user may: the guest's
// composer runs under a uid of its own, and the directory is seen by the guest alone.
func (s *Server) listen() error {
	s.path = filepath.Join(s.cfg.Dir, s.cfg.Name)
	temp := s.path + ".new"
	if err := os.Remove(temp); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove old wayland socket: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen on wayland socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	if err = os.Chmod(temp, 0o666); err == nil {
		err = os.Rename(temp, s.path)
	}
	if err != nil {
		ln.Close()
		os.Remove(temp)
		return fmt.Errorf("publish wayland socket: %w", err)
	}
	s.listener = ln
	return nil
}

// unlisten removes the socket.
func (s *Server) unlisten() {
	s.listener.Close()
	if err := os.Remove(s.path); err != nil && !os.IsNotExist(err) {
		s.log.Warn("wayland socket stays behind", "path", s.path, "error", err)
	}
}
