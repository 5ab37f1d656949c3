package nat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// Check refuses forwards on ports where a process of the host listens (errdefs.ErrConflict), as they would take its traffic away. The
// error names each such forward and the process. Ask before a forward is taken on, not before Apply: a process that came later must not
// stop the forwards of all phones.
func (n *NAT) Check(ctx context.Context, forwards []Forward) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sockets := map[policy.Protocol][]socket{}
	var clashes []error
	for _, f := range forwards {
		known, ok := sockets[f.Protocol]
		if !ok {
			var err error
			if known, err = listeners(f.Protocol); err != nil {
				return fmt.Errorf("list the ports that processes listen on: %w", err)
			}
			sockets[f.Protocol] = known
		}
		for _, s := range known {
			if s.meets(f.Listen) {
				clashes = append(clashes, fmt.Errorf("forward %s: %s listens on %s; choose another port: %w", f, s.owner(), s.local, errdefs.ErrConflict))
				break
			}
		}
	}
	return errors.Join(clashes...)
}

// Listener is a socket of a process of this host that gets what is sent to an address.
type Listener struct {
	// Local is what it is bound to; an unspecified address is all of the host's.
	Local netip.AddrPort
	// Owner names the process: "sshd (pid 812)", or "a process" when it cannot be seen.
	Owner string
}

// Listeners returns the sockets that get what is sent to an address and port of this host. It changes nothing.
func Listeners(protocol policy.Protocol, to netip.AddrPort) ([]Listener, error) {
	sockets, err := listeners(protocol)
	if err != nil {
		return nil, fmt.Errorf("list the ports that processes listen on: %w", err)
	}
	var all []Listener
	for _, s := range sockets {
		if s.meets(to) {
			all = append(all, Listener{Local: s.local, Owner: s.owner()})
		}
	}
	return all, nil
}

// socket is one that waits for others to speak first.
type socket struct {
	local netip.AddrPort
	only6 bool // it listens on :: and takes IPv6 alone
	inode uint32
}

// meets reports whether what is sent to an address to listen on, or to any if that is unspecified, may be meant for the socket.
func (s socket) meets(listen netip.AddrPort) bool {
	if s.local.Port() != listen.Port() {
		return false
	}
	own, other := s.local.Addr(), listen.Addr()
	both := own == netip.IPv6Unspecified() && !s.only6
	if own.Is4() != other.Is4() && !both {
		return false
	}
	return own.IsUnspecified() || other.IsUnspecified() || own == other
}

// owner names the process that has the socket: "sshd (pid 812)", or "a process" when it cannot be seen.
func (s socket) owner() string {
	want := fmt.Sprintf("socket:[%d]", s.inode)
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, file := range files {
		if target, err := os.Readlink(file); err != nil || target != want {
			continue
		}
		dir := filepath.Dir(filepath.Dir(file))
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			break
		}
		return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), filepath.Base(dir))
	}
	return "a process"
}

// Sizes and offsets of struct inet_diag_req_v2 and struct inet_diag_msg (linux/inet_diag.h).
const (
	diagRequestSize = 56
	diagAnswerSize  = 72
	diagPort        = 4  // offset of the local port in an answer
	diagAddress     = 8  // and of the local address, 16 bytes
	diagInode       = 68 // and of the socket's inode
	diagOnly6       = 11 // INET_DIAG_SKV6ONLY
)

// States of sockets: TCP's that listen, and UDP's that are connected to nobody (include/net/tcp_states.h).
const (
	stateClose  = 7
	stateListen = 10
)

// listeners asks the kernel for the sockets of a protocol that wait for others, of both families.
func listeners(p policy.Protocol) ([]socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	number, state := byte(unix.IPPROTO_TCP), stateListen
	if p == policy.UDP {
		number, state = unix.IPPROTO_UDP, stateClose
	}
	var all []socket
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request := make([]byte, diagRequestSize)
		request[0], request[1] = family, number
		binary.NativeEndian.PutUint32(request[4:], 1<<state)
		answers, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
			Data:   request,
		})
		if err != nil {
			return nil, err
		}
		for _, a := range answers {
			s, err := parseSocket(a.Data)
			if err != nil {
				return nil, err
			}
			all = append(all, s)
		}
	}
	return all, nil
}

func parseSocket(data []byte) (socket, error) {
	if len(data) < diagAnswerSize {
		return socket{}, fmt.Errorf("%d bytes about a socket are too few", len(data))
	}
	address := data[diagAddress:][:16]
	if data[0] == unix.AF_INET {
		address = address[:4]
	}
	ip, _ := netip.AddrFromSlice(address)
	s := socket{
		local: netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(data[diagPort:])),
		inode: binary.NativeEndian.Uint32(data[diagInode:]),
	}
	attributes, err := netlink.NewAttributeDecoder(data[diagAnswerSize:])
	if err != nil {
		return socket{}, err
	}
	for attributes.Next() {
		if attributes.Type() == diagOnly6 {
			s.only6 = attributes.Uint8() != 0
		}
	}
	return s, attributes.Err()
}
