package nat

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/policy"
)

// socket is one that waits for others to speak first.
type socket struct {
	protocol policy.Protocol
	local    netip.AddrPort
	// only6 is, of one that listens on ::, whether it takes IPv6 alone.
	only6 only6
	inode uint64
}

// only6 is what is known of a socket's IPV6_V6ONLY.
type only6 int

const (
	unknown only6 = iota
	yes
	no
)

// meets reports whether what is sent to an address to listen on, or to any if that is unspecified, may be meant for the socket.
func (s socket) meets(listen netip.AddrPort) bool {
	if s.local.Port() != listen.Port() {
		return false
	}
	own, other := s.local.Addr(), listen.Addr()
	if own.Is4() != other.Is4() && (own != netip.IPv6Unspecified() || !s.takes4(listen)) {
		return false
	}
	return own.IsUnspecified() || other.IsUnspecified() || own == other
}

// takes4 reports whether a socket on :: gets what is sent to an address of IPv4. Where nobody has told, it is tried: the kernel
// lets nobody bind to the address while the socket has it too.
func (s socket) takes4(listen netip.AddrPort) bool {
	if s.only6 != unknown {
		return s.only6 == no
	}
	return !free(s.protocol, listen)
}

// free reports whether a socket can be bound to an address of IPv4; what cannot be found out is taken for not free. It is given up at once.
func free(protocol policy.Protocol, listen netip.AddrPort) bool {
	kind := unix.SOCK_STREAM
	if protocol == policy.UDP {
		kind = unix.SOCK_DGRAM
	}
	s, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(s)
	if kind == unix.SOCK_STREAM { // connections that are over do not count, listeners do
		if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return false
		}
	}
	return unix.Bind(s, &unix.SockaddrInet4{Port: int(listen.Port()), Addr: listen.Addr().As4()}) == nil
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

// States of sockets: TCP's that listen, and UDP's that are connected to nobody (include/net/tcp_states.h).
const (
	stateClose  = 7
	stateListen = 10
)

// waiting is the state of a protocol's sockets that wait for others.
func waiting(p policy.Protocol) byte {
	if p == policy.UDP {
		return stateClose
	}
	return stateListen
}

// listeners returns the sockets of a protocol that wait for others, of both families.
func listeners(p policy.Protocol) ([]socket, error) {
	all, err := diagnosed(p)
	// What the kernel was built or is loaded without: inet_diag, or its part for the protocol (CONFIG_INET_TCP_DIAG, CONFIG_INET_UDP_DIAG).
	for _, lacks := range []error{unix.ENOENT, unix.EPROTONOSUPPORT, unix.EOPNOTSUPP} {
		if errors.Is(err, lacks) {
			return listed(p, procNet)
		}
	}
	return all, err
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

// diagnosed asks the kernel's sock_diag.
func diagnosed(p policy.Protocol) ([]socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	number := byte(unix.IPPROTO_TCP)
	if p == policy.UDP {
		number = unix.IPPROTO_UDP
	}
	var all []socket
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request := make([]byte, diagRequestSize)
		request[0], request[1] = family, number
		binary.NativeEndian.PutUint32(request[4:], 1<<waiting(p))
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
			s.protocol = p
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
		inode: uint64(binary.NativeEndian.Uint32(data[diagInode:])),
		only6: no,
	}
	attributes, err := netlink.NewAttributeDecoder(data[diagAnswerSize:])
	if err != nil {
		return socket{}, err
	}
	for attributes.Next() {
		if attributes.Type() == diagOnly6 && attributes.Uint8() != 0 {
			s.only6 = yes
		}
	}
	return s, attributes.Err()
}

// procNet is where the kernel lists the sockets of the network of whoever looks. Not /proc/net, which is that of the main thread.
const procNet = "/proc/thread-self/net"

// listed reads the kernel's lists of sockets below dir, which do not tell a socket's IPV6_V6ONLY. A kernel without IPv6 has none of its.
func listed(p policy.Protocol, dir string) ([]socket, error) {
	name := "tcp"
	if p == policy.UDP {
		name = "udp"
	}
	var all []socket
	for _, file := range []string{name, name + "6"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, fs.ErrNotExist) && file != name {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			s, waits, err := parseLine(line, waiting(p))
			if err != nil {
				return nil, fmt.Errorf("%s: %q: %w", file, strings.TrimSpace(line), err)
			}
			if waits {
				s.protocol = p
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// Fields of a line of /proc/net/tcp and its like (net/ipv4/tcp_ipv4.c, get_tcp4_sock): number, local and remote address, state, two queues, timer,
// retransmissions, user, time-out, inode.
const (
	lineLocal  = 1
	lineState  = 3
	lineInode  = 9
	lineFields = 10
)

// parseLine reads a line of a list, whose first one has the names of the fields. waits tells whether the socket is in the state.
func parseLine(line string, state byte) (s socket, waits bool, err error) {
	fields := strings.Fields(line)
	if len(fields) == 0 || fields[0] == "sl" {
		return s, false, nil
	}
	if len(fields) < lineFields {
		return s, false, fmt.Errorf("%d fields are too few", len(fields))
	}
	is, err := strconv.ParseUint(fields[lineState], 16, 8)
	if err != nil || byte(is) != state {
		return s, false, err
	}
	if s.local, err = parseEnd(fields[lineLocal]); err != nil {
		return s, false, err
	}
	s.inode, err = strconv.ParseUint(fields[lineInode], 10, 64)
	return s, err == nil, err
}

// parseEnd reads "0100007F:1538": an address in words of 4 bytes, each as the machine has them, and a port.
func parseEnd(text string) (netip.AddrPort, error) {
	address, number, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", address)
	}
	port, err := strconv.ParseUint(number, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no port", number)
	}
	for word := range slices.Chunk(raw, 4) {
		binary.BigEndian.PutUint32(word, binary.NativeEndian.Uint32(word))
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(port)), nil
}
