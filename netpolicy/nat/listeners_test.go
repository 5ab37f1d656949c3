package nat_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/nat"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// A port that a process listens on is refused, and the process is named.
func TestCheckNamesTheProcessThatListens(t *testing.T) {
	newLab(t)
	n := newNAT(t, nil)
	listen := func(network, address string) uint16 {
		t.Helper()
		if strings.HasPrefix(network, "udp") {
			conn, err := net.ListenPacket(network, address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			return netip.MustParseAddrPort(conn.LocalAddr().String()).Port()
		}
		conn, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return netip.MustParseAddrPort(conn.Addr().String()).Port()
	}
	local, all := listen("tcp4", "127.0.0.1:0"), listen("tcp4", "0.0.0.0:0")
	dual, six := listen("tcp", "[::]:0"), listen("tcp6", "[::]:0")
	datagrams := listen("udp4", "192.0.2.1:0")
	me := fmt.Sprintf("(pid %d) listens on ", os.Getpid())
	for _, test := range []struct {
		name     string
		protocol policy.Protocol
		listen   string
		port     uint16
		want     string // "": no clash
	}{
		{"same", policy.TCP, "127.0.0.1", local, me + "127.0.0.1:"},
		{"all of them", policy.TCP, "0.0.0.0", local, me + "127.0.0.1:"},
		{"other address", policy.TCP, "192.0.2.1", local, ""},
		{"other protocol", policy.UDP, "127.0.0.1", local, ""},
		{"process on all", policy.TCP, "127.0.0.1", all, me + "0.0.0.0:"},
		{"process on both families", policy.TCP, "127.0.0.1", dual, me + "[::]:"},
		{"process on IPv6 alone", policy.TCP, "127.0.0.1", six, ""},
		{"IPv6", policy.TCP, "2001:db8::1", six, me + "[::]:"},
		{"datagrams", policy.UDP, "192.0.2.1", datagrams, me + "192.0.2.1:"},
		{"datagrams elsewhere", policy.UDP, "127.0.0.1", datagrams, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := n.Check(t.Context(), test.protocol, addrPort(netip.MustParseAddr(test.listen), test.port))
			if test.want == "" && err != nil || test.want != "" && (!errdefs.IsConflict(err) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v; want %q", err, test.want)
			}
		})
	}
	// Who has connected, and is on a port of the host's choosing, listens to nobody.
	conn, err := net.Dial("udp", "192.0.2.1:"+fmt.Sprint(datagrams))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	own := netip.MustParseAddrPort(conn.LocalAddr().String())
	if err := n.Check(t.Context(), policy.UDP, own); err != nil {
		t.Error(err)
	}
}

// An address that is none of the host's is refused, and the error says which would be right.
func TestCheckNamesTheHostsAddresses(t *testing.T) {
	l := newLab(t)
	l.phone(t, 2) // whose gateway's addresses are the host's, and none to listen on
	run(t, "ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo")
	finally(t, "ip", "route", "del", "local", "198.51.100.0/24", "dev", "lo")
	n := newNAT(t, nil)
	for listen, want := range map[string]string{ // "": it may be listened on
		"127.0.0.1": "", "127.7.0.1": "", "0.0.0.0": "", "::": "", "192.0.2.1": "", "2001:db8::1": "",
		"198.51.100.9": "", // what the kernel takes by a route
		"192.0.2.2":    "192.0.2.2 is no address of this host; 127.0.0.1, 0.0.0.0 for all and 192.0.2.1 are",
		"192.0.2.255":  "192.0.2.255 is no address of this host",
		"203.0.113.7":  "203.0.113.7 is no address of this host; 127.0.0.1, 0.0.0.0 for all and 192.0.2.1 are",
		"2001:db8::2":  "2001:db8::2 is no address of this host; :: for all and 2001:db8::1 are",
	} {
		err := n.Check(t.Context(), policy.TCP, addrPort(netip.MustParseAddr(listen), 6001))
		if want == "" && err != nil || want != "" && (!errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v; want %q", listen, err, want)
		}
	}
}

// Without a way out, and without any address but loopback, the answer is the same.
func TestCheckOnAHostWithoutANetwork(t *testing.T) {
	testenv.Root(t)
	n, err := nat.New(nat.Config{Pool4: pool4, Timeouts: times})
	if err != nil {
		t.Fatal(err)
	}
	lonely := netlab.Make(t, "lonely")
	err = lonely.Do(func() error { return n.Check(t.Context(), policy.TCP, netip.MustParseAddrPort("203.0.113.7:6001")) })
	if want := "203.0.113.7 is no address of this host; 127.0.0.1 and 0.0.0.0 for all are"; !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v; want %q", err, want)
	}
}
