package access_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/scripts/testenv"
)

func listen(t *testing.T, c access.UnixConfig) *access.UnixListener {
	t.Helper()
	if c.Path == "" {
		c.Path = filepath.Join(t.TempDir(), "agent.sock")
	}
	l, err := access.ListenUnix(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// openPath returns the path for a socket in a directory that every user can reach, unlike t.TempDir.
func openPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "phonehost-access-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "agent.sock")
}

func TestUnixPeer(t *testing.T) {
	t.Parallel()
	l := listen(t, access.UnixConfig{})
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pc := conn.(access.PeerConn)
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	want := access.Identity{Kind: access.KindUID, UID: uint32(os.Geteuid()), GIDs: []uint32{uint32(os.Getegid())}}
	for _, g := range groups {
		want.GIDs = append(want.GIDs, uint32(g))
	}
	slices.Sort(want.GIDs)
	want.GIDs = slices.Compact(want.GIDs)
	if diff := cmp.Diff(want, pc.Identity()); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	if pc.Door() != "unix" || pc.SessionKind() != "" {
		t.Errorf("door %q, kind %q", pc.Door(), pc.SessionKind())
	}
}

// TestUnixPeerOfAnotherUser connects from a thread that is another user in more groups than the first guess has room for.
func TestUnixPeerOfAnotherUser(t *testing.T) {
	testenv.Root(t)
	l := listen(t, access.UnixConfig{Path: openPath(t), Mode: 0o666})
	var groups []uint32
	for g := uint32(5000); g < 5100; g++ {
		groups = append(groups, g)
	}
	connected, done := make(chan error, 1), make(chan struct{})
	defer close(done)
	go connectAs(l.Addr().String(), 4321, 1234, groups, connected, done)
	if err := <-connected; err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := access.Identity{Kind: access.KindUID, UID: 4321, GIDs: append([]uint32{1234}, groups...)}
	got := conn.(access.PeerConn).Identity()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	if !got.InGroup(5099) || got.InGroup(5100) {
		t.Error("InGroup does not follow the groups")
	}
}

// connectAs connects from a thread of its own, which takes the user's credentials and ends with the goroutine.
func connectAs(path string, uid, gid int, groups []uint32, connected chan<- error, done <-chan struct{}) {
	runtime.LockOSThread() // never unlocked: the thread is of no more use
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		connected <- err
		return
	}
	defer unix.Close(fd)
	steps := [][3]uintptr{
		{unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0]))},
		{unix.SYS_SETRESGID, uintptr(gid), uintptr(gid)},
		{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid)},
	}
	for _, s := range steps {
		third := s[2]
		if s[0] == unix.SYS_SETGROUPS {
			third = 0
		}
		if _, _, errno := unix.RawSyscall(s[0], s[1], s[2], third); errno != 0 {
			connected <- errno
			return
		}
	}
	connected <- unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	<-done
}

func TestListenUnix(t *testing.T) {
	t.Parallel()
	t.Run("mode", func(t *testing.T) {
		t.Parallel()
		l := listen(t, access.UnixConfig{})
		info, err := os.Stat(l.Addr().String())
		if err != nil || info.Mode() != fs.ModeSocket|0o660 {
			t.Errorf("mode = %v, %v; want 0660", info.Mode(), err)
		}
	})
	t.Run("close removes the socket", func(t *testing.T) {
		t.Parallel()
		l := listen(t, access.UnixConfig{})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("second Close = %v", err)
		}
		if _, err := os.Stat(l.Addr().String()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat after Close = %v", err)
		}
	})
	t.Run("a dead socket is replaced", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "agent.sock")
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		if err := dead.Close(); err != nil {
			t.Fatal(err)
		}
		l := listen(t, access.UnixConfig{Path: path})
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	})
	t.Run("a served socket is not", func(t *testing.T) {
		t.Parallel()
		l := listen(t, access.UnixConfig{})
		_, err := access.ListenUnix(access.UnixConfig{Path: l.Addr().String()})
		if !errors.Is(err, errdefs.ErrAlreadyExists) {
			t.Errorf("second listen = %v, want already exists", err)
		}
	})
	t.Run("a file is not", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "agent.sock")
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := access.ListenUnix(access.UnixConfig{Path: path})
		if !errors.Is(err, errdefs.ErrAlreadyExists) {
			t.Errorf("listen on a file = %v, want already exists", err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != "mine" {
			t.Errorf("the file is %q, %v", data, err)
		}
	})
	t.Run("no directory", func(t *testing.T) {
		t.Parallel()
		_, err := access.ListenUnix(access.UnixConfig{Path: filepath.Join(t.TempDir(), "none", "agent.sock")})
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("listen = %v, want not exist", err)
		}
	})
}

// TestUnixConnsOfOneUser fills the share of a user that is not root; room is there again when one of them leaves.
func TestUnixConnsOfOneUser(t *testing.T) {
	testenv.Root(t)
	l := listen(t, access.UnixConfig{Path: openPath(t), Mode: 0o666, MaxConns: 1})
	done := make(chan struct{})
	defer close(done)
	connect := func(uid int) {
		connected := make(chan error, 1)
		go connectAs(l.Addr().String(), uid, uid, []uint32{uint32(uid)}, connected, done)
		if err := <-connected; err != nil {
			t.Fatal(err)
		}
	}
	accept := func() access.PeerConn {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return conn.(access.PeerConn)
	}
	connect(4321)
	first := accept()
	connect(4321) // one too many: Accept passes over it
	connect(4322)
	if got := accept().Identity().UID; got != 4322 {
		t.Fatalf("accepted user %d, want 4322: user 4321 has a connection", got)
	}
	if err := errors.Join(first.Close(), ignoreClosed(first.Close())); err != nil {
		t.Fatal(err)
	}
	connect(4321)
	if got := accept().Identity().UID; got != 4321 {
		t.Fatalf("accepted user %d, want 4321: its connection was closed", got)
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
