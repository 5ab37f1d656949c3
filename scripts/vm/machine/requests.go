package machine

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/phonehost/phonehost/scripts/vm/control"
)

// session returns the control session and where the serial log was when it began.
func (m *Machine) current() (*control.Client, int64, error) {
	m.mu.Lock()
	client, offset, closed := m.client, m.offset, m.closed
	m.mu.Unlock()
	switch {
	case client != nil:
		return client, offset, nil
	case closed:
		return nil, 0, fmt.Errorf("the machine is closed: %w", errdefs.ErrUnavailable)
	}
	select {
	case <-m.process.exited:
		return nil, 0, m.ended()
	default:
		return nil, 0, fmt.Errorf("the guest does not answer (it restarts, or was saved): %w", errdefs.ErrUnavailable)
	}
}

// with carries out a request in the current session.
func (m *Machine) with(do func(*control.Client) error) error {
	client, offset, err := m.current()
	if err != nil {
		return err
	}
	return m.explain(do(client), offset)
}

// Guest returns what the guest said of itself when the current session began.
func (m *Machine) Guest() (control.Guest, error) {
	client, _, err := m.current()
	if err != nil {
		return control.Guest{}, err
	}
	return client.Guest(), nil
}

// Exec runs a program in the guest and returns its exit code; see control.Client.Exec. A guest that restarts, panics or ends
// while it runs is errdefs.ErrUnavailable, with the reason where it is known.
func (m *Machine) Exec(ctx context.Context, cmd control.Command) (code int, err error) {
	code = -1
	err = m.with(func(c *control.Client) (err error) {
		code, err = c.Exec(ctx, cmd)
		return err
	})
	return code, err
}

// Dial connects to an address inside the guest through the control port; see control.Client.Dial. It carries some MB/s: what
// moves more goes through Forward.
func (m *Machine) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = m.with(func(c *control.Client) (err error) {
		conn, err = c.Dial(ctx, network, address)
		return err
	})
	return conn, err
}

// Put makes or replaces a file of the guest; see control.Client.Put.
func (m *Machine) Put(ctx context.Context, path string, mode fs.FileMode, r io.Reader) error {
	return m.with(func(c *control.Client) error { return c.Put(ctx, path, mode, r) })
}

// Get writes a file of the guest to w; see control.Client.Get.
func (m *Machine) Get(ctx context.Context, path string, w io.Writer) error {
	return m.with(func(c *control.Client) error { return c.Get(ctx, path, w) })
}

// QMP sends QEMU a command of its machine protocol; args and result may be nil.
func (m *Machine) QMP(ctx context.Context, command string, args, result any) error {
	return m.qmp.Call(ctx, command, args, result)
}

// Forward opens a port of the host's loopback that leads to a TCP port of the guest, on its address 10.0.2.15, and returns it
// as HOST:PORT. It is there until Close; a resumed machine has none of those of the one that was saved.
func (m *Machine) Forward(ctx context.Context, guestPort int) (string, error) {
	if guestPort < 1 || guestPort > 65535 {
		return "", fmt.Errorf("forward port %d, want 1 to 65535: %w", guestPort, errdefs.ErrInvalidArgument)
	}
	before, err := m.forwards(ctx)
	if err != nil {
		return "", err
	}
	out, err := m.monitor(ctx, "hostfwd_add net tcp:127.0.0.1:0-:"+strconv.Itoa(guestPort))
	if err != nil {
		return "", err
	}
	if out = strings.TrimSpace(out); out != "" {
		return "", fmt.Errorf("forward port %d: QEMU: %s", guestPort, out)
	}
	after, err := m.forwards(ctx)
	if err != nil {
		return "", err
	}
	for from, to := range after {
		if _, old := before[from]; !old && to == guestPort {
			return from.String(), nil
		}
	}
	return "", fmt.Errorf("forward port %d: QEMU lists no new port: %v", guestPort, after)
}

// forwards returns the host's addresses that lead to ports of the guest.
func (m *Machine) forwards(ctx context.Context) (map[netip.AddrPort]int, error) {
	out, err := m.monitor(ctx, "info usernet")
	if err != nil {
		return nil, err
	}
	return parseUsernet(out), nil
}

// parseUsernet reads the lines of forwarded ports:
//
//	Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
//	TCP[HOST_FORWARD]  12       127.0.0.1 40123       10.0.2.15    80     0     0
func parseUsernet(text string) map[netip.AddrPort]int {
	found := map[netip.AddrPort]int{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 6 || words[0] != "TCP[HOST_FORWARD]" {
			continue
		}
		from, err := netip.ParseAddrPort(words[2] + ":" + words[3])
		to, portErr := strconv.Atoi(words[5])
		if err == nil && portErr == nil {
			found[from] = to
		}
	}
	return found
}

// monitor sends a command for which QEMU's machine protocol has none of its own.
func (m *Machine) monitor(ctx context.Context, line string) (string, error) {
	var out string
	err := m.qmp.Call(ctx, "human-monitor-command", map[string]string{"command-line": line}, &out)
	return out, err
}
