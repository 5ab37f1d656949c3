package packages

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxSessions is how many sessions may be open at once (PackageInstallerService.MAX_ACTIVE_SESSIONS_WITH_PERMISSION).
const maxSessions = 1024

// Params say how a session is to be installed.
type Params struct {
	// Total is how many bytes will come, 0 if that is not known.
	Total int64
	// NoReplace refuses a package that is there already (pm's -R).
	NoReplace bool
	// Downgrade allows an older version (-d), TestOnly a test-only APK (-t), DontKill leaves the running app alone (--dont-kill).
	Downgrade, TestOnly, DontKill bool
	// Installer is the package that is named as the installer (-i).
	Installer string
}

// session is an installation under way.
type session struct {
	id     int
	params Params

	mu     sync.Mutex // held while a file is written or the session ends
	closed bool
}

func (s *session) dir() string { return fmt.Sprintf("/data/app/vmdl%d.tmp", s.id) }

// CreateSession begins an installation and returns its number. Error: errdefs.ErrResourceExhausted when Total does not fit the disk or
// there are too many sessions.
func (m *Manager) CreateSession(params Params) (int, error) {
	if params.Total > 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(m.path("/data/app"), &st); err != nil {
			return 0, fmt.Errorf("ask for free space: %w", err)
		}
		if free := int64(st.Bavail) * st.Bsize; params.Total > free {
			return 0, fmt.Errorf("%d bytes for %d that are free: %w", params.Total, free, errdefs.ErrResourceExhausted)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.sessions) >= maxSessions {
		return 0, fmt.Errorf("%d sessions are open: %w", len(m.sessions), errdefs.ErrResourceExhausted)
	}
	s := &session{params: params}
	for s.id == 0 || m.sessions[s.id] != nil {
		s.id = int(rand.Int32N(1<<31-2)) + 1
	}
	if err := makeDir(m.path(s.dir()), 0o775); err != nil {
		return 0, fmt.Errorf("begin a session: %w", err)
	}
	m.sessions[s.id] = s
	return s.id, nil
}

// session returns an open session, with its lock held; errdefs.ErrNotFound if there is none.
func (m *Manager) session(id int) (*session, error) {
	m.mu.Lock()
	s := m.sessions[id]
	m.mu.Unlock()
	if s != nil {
		s.mu.Lock()
		if !s.closed {
			return s, nil
		}
		s.mu.Unlock()
	}
	return nil, fmt.Errorf("session %d: %w", id, errdefs.ErrNotFound)
}

// Write streams an APK of size bytes into a session. What is not whole at the end is not kept. Errors: errdefs.ErrNotFound,
// errdefs.ErrInvalidArgument for the name, io.ErrUnexpectedEOF for an r that ends early, and the system's.
func (m *Manager) Write(id int, name string, size int64, r io.Reader) (err error) {
	if name == "" || strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".") || len(name) > 200 {
		return fmt.Errorf("file name %.100q: %w", name, errdefs.ErrInvalidArgument)
	}
	s, err := m.session(id)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	path := m.path(s.dir(), name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(path)
		}
	}()
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%s: %w", javaError("write", err), err)
	}
	n, err := io.Copy(f, io.LimitReader(r, size))
	switch {
	case err != nil:
		return err
	case n < size:
		return fmt.Errorf("%d of %d bytes came: %w", n, size, io.ErrUnexpectedEOF)
	}
	return errors.Join(f.Chmod(0o644), f.Sync())
}

// Abandon ends a session. Error: errdefs.ErrNotFound.
func (m *Manager) Abandon(id int) error {
	s, err := m.session(id)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	return m.endSession(s)
}

// endSession removes a session and what is left of its files. The caller holds its lock.
func (m *Manager) endSession(s *session) error {
	s.closed = true
	m.mu.Lock()
	delete(m.sessions, s.id)
	m.mu.Unlock()
	if err := os.RemoveAll(m.path(s.dir())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove session %d: %w", s.id, err)
	}
	return nil
}

// files lists the files of a session.
func (m *Manager) files(s *session) ([]string, error) {
	entries, err := os.ReadDir(m.path(s.dir()))
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		list = append(list, filepath.Join(s.dir(), e.Name()))
	}
	slices.Sort(list)
	return list, nil
}
