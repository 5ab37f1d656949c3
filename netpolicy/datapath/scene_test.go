package datapath_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// Ports of the server. Both are echoed; the policies of these tests deny the second.
const (
	openPort   = 7000
	deniedPort = 7001
)

// scene is a phone and a server with the host between them, and the programs on the host's end of the phone's link. The phone has slot 1
// and policy 1.
type scene struct {
	*datapath.Datapath
	config        datapath.Config
	phone, server netlab.Namespace
	link          netlink.Link // the host's end of the phone's
	set           datapath.Phone
}

const (
	phoneAddress  = "10.213.0.2"
	serverAddress = "198.51.100.2"
)

// newScene wires it and attaches the programs. The policy is loaded, the phone is not set.
func newScene(t *testing.T, c datapath.Config) *scene {
	t.Helper()
	return sceneWith(t, c, open)
}

// sceneWith is newScene with a datapath that is opened in a way.
func sceneWith(t *testing.T, c datapath.Config, open func(testing.TB, datapath.Config) *datapath.Datapath) *scene {
	t.Helper()
	testenv.Root(t)
	s := &scene{config: c, phone: netlab.Make(t, "phone"), server: netlab.Make(t, "server")}
	s.server.Wire(t, []string{"198.51.100.1/24"}, []string{serverAddress + "/24"})
	s.link = s.phone.Wire(t, []string{"10.213.0.1/24"}, []string{phoneAddress + "/24"})
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/forwarding", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(s.link); err != nil {
		t.Fatal(err)
	}
	s.Datapath = open(t, c)
	s.set = datapath.Phone{
		Slot: 1, Policy: 1, IPv4: netip.MustParseAddr(phoneAddress), Gateway4: netip.MustParseAddr("10.213.0.1"), Prefix4: 24, GatewayMAC: s.link.Attrs().HardwareAddr,
	}
	err := s.phone.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		s.set.MAC = eth0.Attrs().HardwareAddr
		return know(eth0, "10.213.0.1", s.set.GatewayMAC)
	})
	classes := []policy.AddressClass{{Prefix: netip.MustParsePrefix("10.213.0.0/24"), Class: 1}, {Prefix: netip.MustParsePrefix("10.213.0.1/32"), Class: 2}}
	if err := errors.Join(err, s.SetProtected(policy.CompileAddresses(classes)), s.load(1), s.Attach("p1", s.link.Attrs().Index)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetUp(s.link), know(s.link, phoneAddress, s.set.MAC)); err != nil {
		t.Fatal(err)
	}
	return s
}

// know gives a link a permanent neighbour: nobody has to ask for it.
func know(link netlink.Link, address string, mac net.HardwareAddr) error {
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(address), HardwareAddr: mac})
}

// admit sets the phone.
func (s *scene) admit(t *testing.T) {
	t.Helper()
	if err := s.SetPhone(s.link.Attrs().Index, s.set); err != nil {
		t.Fatal(err)
	}
}

// mostPorts is a policy that denies deniedPort and 203.0.113.0/24, and allows the rest.
func mostPorts(generation uint64) (*policy.Object, error) {
	p := policy.Policy{Rules: []policy.Rule{{Action: policy.Deny, Protocol: policy.Any, Ports: nil, CIDR: netip.MustParsePrefix("203.0.113.0/24")}}}
	for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP} {
		p.Rules = append(p.Rules, policy.Rule{Action: policy.Deny, Protocol: protocol, Ports: []policy.PortRange{{First: deniedPort, Last: deniedPort}}})
	}
	return policy.Compile(p, generation)
}

// load puts mostPorts in force.
func (s *scene) load(generation uint64) error {
	o, err := mostPorts(generation)
	if err != nil {
		return err
	}
	return s.LoadPolicy(1, o)
}

// udp opens a socket in a namespace, bound to a port (0: any).
func udp(t *testing.T, n netlab.Namespace, port int) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echo has the server answer on a UDP port, and counts what comes.
func (s *scene) echo(t *testing.T, port int) *atomic.Int64 {
	t.Helper()
	conn := udp(t, s.server, port)
	came := new(atomic.Int64)
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			came.Add(1)
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		done.Wait()
	})
	return came
}

// pingPong sends numbers to the server's port and waits for each to come back before it sends the next, until ctx ends. One lost packet
// is an error, after some seconds.
func pingPong(ctx context.Context, conn net.Conn) (rounds int, err error) {
	var out, in [8]byte
	for ; ctx.Err() == nil; rounds++ {
		binary.BigEndian.PutUint64(out[:], uint64(rounds))
		if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return rounds, err
		}
		if _, err := conn.Write(out[:]); err != nil {
			return rounds, err
		}
		if _, err := io.ReadFull(conn, in[:]); err != nil {
			return rounds, fmt.Errorf("round %d: %w", rounds, err)
		}
		if in != out {
			return rounds, fmt.Errorf("round %d: %x came back", rounds, in)
		}
	}
	return rounds, nil
}

// dial connects the phone to the server.
func (s *scene) dial(t *testing.T, network string, port int) (net.Conn, error) {
	t.Helper()
	var conn net.Conn
	err := s.phone.Do(func() (err error) {
		dialer := net.Dialer{Timeout: 2 * time.Second}
		conn, err = dialer.DialContext(t.Context(), network, net.JoinHostPort(serverAddress, fmt.Sprint(port)))
		return err
	})
	if conn != nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// serveTCP has the server echo connections to a port.
func (s *scene) serveTCP(t *testing.T, port int) {
	t.Helper()
	var l net.Listener
	err := s.server.Do(func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { conn.Close() }) // whose peer may be cut off
			done.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		stop()
		done.Wait()
	})
}

// retransmits is how often the kernel sent segments of a connection again. In an emulated machine, whose processors stand still now and
// then for longer than TCP waits, those do not count of which the peer says that it had them already (RFC 2883).
func retransmits(t *testing.T, conn net.Conn) (n uint32) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err2 := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Total_retrans
			if _, guest := vm.Guest(); guest {
				n -= min(n, info.Dsack_dups)
			}
		}
	})
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return n
}

// sendDenied sends packets to the server, which the programs drop. When it returns they have been counted.
func (s *scene) sendDenied(t *testing.T, n, port int) {
	t.Helper()
	before := s.dropped(t)
	conn := udp(t, s.phone, 0)
	to := netip.AddrPortFrom(netip.MustParseAddr(serverAddress), uint16(port))
	for range n {
		if _, err := conn.WriteToUDPAddrPort([]byte("x"), to); err != nil {
			t.Fatal(err)
		}
	}
	s.awaitDropped(t, before+uint64(n))
}

// dropped is how many of the phone's packets were dropped so far.
func (s *scene) dropped(t *testing.T) (sum uint64) {
	t.Helper()
	counters, err := s.Counters(1)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range counters.Dropped {
		sum += n
	}
	return sum
}

// awaitDropped waits until so many packets were dropped: a veth hands them over after the sender's call has returned.
func (s *scene) awaitDropped(t *testing.T, want uint64) {
	t.Helper()
	ctx := limit(t, 10*time.Second)
	for s.dropped(t) < want {
		if ctx.Err() != nil {
			t.Fatalf("%d packets were dropped; want %d", s.dropped(t), want)
		}
	}
}

// limit is a context that ends after a time.
func limit(t *testing.T, after time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), after)
	t.Cleanup(cancel)
	return ctx
}

// talk keeps ping-pongs going that end at one lost packet, while the phone sends without pause what its policy denies. end ends them, and
// fails the test if a packet was lost, if one came through that was denied, or if there were fewer rounds than that.
func (s *scene) talk(t *testing.T) (end func(rounds int)) {
	t.Helper()
	s.echo(t, openPort)
	denied := s.echo(t, deniedPort)
	s.serveTCP(t, openPort)
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	var tasks sync.WaitGroup
	var connections []net.Conn
	var made [2]int
	for i, network := range []string{"tcp4", "udp4"} {
		conn, err := s.dial(t, network, openPort)
		if err != nil {
			t.Fatal(err)
		}
		connections = append(connections, conn)
		tasks.Go(func() {
			var err error
			if made[i], err = pingPong(ctx, conn); err != nil {
				t.Errorf("%s: %v", network, err)
			}
		})
	}
	flood := udp(t, s.phone, 0)
	sent := 0
	tasks.Go(func() {
		to := netip.AddrPortFrom(netip.MustParseAddr(serverAddress), deniedPort)
		for ctx.Err() == nil {
			if _, err := flood.WriteToUDPAddrPort([]byte("x"), to); err == nil {
				sent++
			}
		}
	})
	return func(rounds int) {
		t.Helper()
		stop()
		tasks.Wait()
		t.Logf("TCP made %d rounds, UDP %d; %d denied packets were sent", made[0], made[1], sent)
		if made[0] < rounds || made[1] < rounds {
			t.Errorf("there were %v rounds, fewer than %d", made, rounds)
		}
		if n := retransmits(t, connections[0]); n != 0 {
			t.Errorf("TCP sent %d segments again", n)
		}
		if denied.Load() != 0 || sent < rounds {
			t.Errorf("of %d packets that all policies deny, %d came through", sent, denied.Load())
		}
	}
}

// scatter sends packets to more peers than a table of denials has room for, and no faster than they are dropped. When it returns they have
// been counted.
func (s *scene) scatter(conn *net.UDPConn, packets int) error {
	for i := range packets {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), uint16(1+i%7))
		if _, err := conn.WriteToUDPAddrPort([]byte("x"), to); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		for (i+1)%200 == 0 || i == packets-1 {
			counters, err := s.Counters(1)
			if err != nil {
				return err
			}
			if counters.Dropped[datapath.ReasonRule] > uint64(i) {
				break
			}
		}
	}
	return nil
}
