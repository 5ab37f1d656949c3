package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/machine/qmp"
)

// Machine is one running QEMU. Whoever got it must Close it. It is safe for concurrent use.
type Machine struct {
	config   Config
	log      *slog.Logger
	emulator emulator
	accel    Accel
	dir      *directory
	slot     io.Closer
	cache    *asset.Cache // to close; nil if it is the caller's

	process *process
	qmp     *qmp.Client

	unlink context.CancelFunc // ends the link
	linked chan struct{}      // closed when the link has ended
	close  sync.Once

	mu     sync.Mutex
	news   chan struct{} // closed and made anew when anything below changes
	port   portState
	client *control.Client
	boot   string // the boot that the client, or the last one, is of
	boots  int    // boots that a session was begun with
	waited int    // of them, those that Start, Resume or WaitBoot returned for
	resets int    // times that the computer was reset
	offset int64  // the serial log's size when the client's session began
	cause  string // why QEMU ended, in its own event
	closed bool

	migration string // the state of the last migration
}

// portState is the guest's end of the control port.
type portState struct {
	open    bool
	changes int
}

// Config returns what the machine was started with, defaults filled in.
func (m *Machine) Config() Config { return m.config }

// Dir returns the machine's directory.
func (m *Machine) Dir() string { return m.dir.path }

// Accelerator returns what runs the guest's code.
func (m *Machine) Accelerator() Accel { return m.accel }

// cacheInUse returns the cache, the caller's or our own.
func (m *Machine) cacheInUse() *asset.Cache {
	if m.cache != nil {
		return m.cache
	}
	return m.config.Cache
}

// Done is closed when QEMU has ended.
func (m *Machine) Done() <-chan struct{} { return m.process.exited }

// change changes what mu guards, and tells those who wait for it.
func (m *Machine) change(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do()
	close(m.news)
	m.news = make(chan struct{})
}

// wait returns when check, called with mu held, is true or an error, with the reason why ctx ended, or with the end of QEMU.
func (m *Machine) wait(ctx context.Context, check func() (bool, error)) error {
	for {
		m.mu.Lock()
		done, err := check()
		news := m.news
		m.mu.Unlock()
		if done || err != nil {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.process.exited:
			return m.ended()
		}
	}
}

// ended says why QEMU ended.
func (m *Machine) ended() error {
	m.mu.Lock()
	cause := m.cause
	m.mu.Unlock()
	if cause != "" {
		return fmt.Errorf("the machine was turned off (%s): %w", cause, errdefs.ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", m.process.err(), errdefs.ErrUnavailable)
}

// event takes what QEMU tells.
func (m *Machine) event(e qmp.Event) {
	var data struct {
		ID     string `json:"id"`
		Open   bool   `json:"open"`
		Reason string `json:"reason"`
		Guest  bool   `json:"guest"`
		Status string `json:"status"`
	}
	if len(e.Data) > 0 && json.Unmarshal(e.Data, &data) != nil {
		return
	}
	m.log.Debug("QEMU", "event", e.Name, "data", string(e.Data))
	switch {
	case e.Name == "VSERPORT_CHANGE" && data.ID == "control":
		m.change(func() { m.port = portState{data.Open, m.port.changes + 1} })
	case e.Name == "RESET" && data.Guest, e.Name == "RESET" && data.Reason == "host-qmp-system-reset":
		m.change(func() { m.resets++ })
	case e.Name == "MIGRATION":
		m.change(func() { m.migration = data.Status })
	case e.Name == "SHUTDOWN":
		m.change(func() {
			if m.cause == "" {
				m.cause = data.Reason
			}
		})
	}
}

// launch starts QEMU and what keeps its control session.
func (m *Machine) launch(ctx context.Context, disk string, more ...string) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	listener, err := m.listen()
	if err != nil {
		ours.Close()
		return err
	}
	defer listener.Close()
	args := append(m.config.arguments(m.emulator, m.accel, m.dir, disk), more...)
	m.log.Debug("start QEMU", "path", m.emulator.path, "arguments", args)
	if m.process, err = startProcess(m.emulator.path, args, theirs, listener); err != nil {
		ours.Close()
		return err
	}
	theirs.Close() // so that QEMU's end closes the connection
	if m.qmp, err = qmp.New(ctx, ours, m.event); err != nil {
		if ctx.Err() == nil {
			<-m.process.exited // it closed the connection by ending
			return m.process.err()
		}
		m.process.kill()
		return err
	}
	m.startLink()
	return nil
}

func (m *Machine) startLink() {
	link, cancel := context.WithCancel(context.Background())
	m.unlink, m.linked = cancel, make(chan struct{})
	go func() {
		defer close(m.linked)
		m.link(link)
	}()
}

// stopLink ends the control session and what keeps it.
func (m *Machine) stopLink() {
	m.unlink()
	<-m.linked
}

// listen makes the socket on which QEMU waits for the control session. It is bound and dialled through the directory's
// descriptor, since a socket's path has at most 107 bytes.
func (m *Machine) listen() (*os.File, error) {
	name, done, err := m.controlPath()
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	return l.File()
}

// controlPath returns a short path of the control socket, which holds until done is called.
func (m *Machine) controlPath() (path string, done func(), err error) {
	dir, err := os.Open(m.dir.path)
	if err != nil {
		return "", nil, fmt.Errorf("open the machine's directory: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlFile), func() { dir.Close() }, nil
}

// Close ends the machine at once, without a word to the guest, and removes its directory. All that is under way ends with
// errdefs.ErrUnavailable. Closing twice does nothing.
func (m *Machine) Close() error {
	var err error
	m.close.Do(func() {
		m.change(func() { m.closed = true })
		if m.unlink != nil {
			m.stopLink()
		}
		if m.process != nil {
			m.process.kill()
		}
		if m.qmp != nil {
			m.qmp.Close()
		}
		err = m.release()
	})
	return err
}

// release gives back what the machine has of the host.
func (m *Machine) release() error {
	var all error
	if m.dir != nil {
		all = errors.Join(all, m.dir.remove())
	}
	if m.slot != nil {
		all = errors.Join(all, m.slot.Close())
	}
	if m.cache != nil {
		all = errors.Join(all, m.cache.Close())
	}
	if all != nil {
		return fmt.Errorf("close a machine: %w", all)
	}
	return nil
}

// quitTime is how long QEMU may take to end by itself.
const quitTime = 10 * time.Second
