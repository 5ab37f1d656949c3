package nat

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// What is read where the kernel has no sock_diag finds the same as sock_diag itself, whatever the sockets are bound to.
func TestListsAgreeWithSockDiag(t *testing.T) {
	testenv.Root(t) // in a network of its own, where nobody else comes and goes
	sockets := map[string]netip.AddrPort{}
	for name, at := range map[string][2]string{
		"tcp local": {"tcp4", "127.0.0.1:0"}, "tcp all": {"tcp4", "0.0.0.0:0"}, "tcp both": {"tcp", "[::]:0"}, "tcp six": {"tcp6", "[::]:0"}, "tcp local six": {"tcp6", "[::1]:0"},
	} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		sockets[name] = netip.MustParseAddrPort(l.Addr().String())
	}
	for name, at := range map[string][2]string{
		"udp local": {"udp4", "127.0.0.1:0"}, "udp all": {"udp4", "0.0.0.0:0"}, "udp both": {"udp", "[::]:0"}, "udp six": {"udp6", "[::]:0"},
	} {
		l, err := net.ListenPacket(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		sockets[name] = netip.MustParseAddrPort(l.LocalAddr().String())
	}
	for _, p := range []policy.Protocol{policy.TCP, policy.UDP} {
		told, err := diagnosed(p)
		if errors.Is(err, fs.ErrNotExist) {
			t.Logf("%s: this kernel has no sock_diag to compare with", protocolName(p))
		} else if err != nil {
			t.Fatal(err)
		}
		read, err := listed(p, procNet)
		if err != nil {
			t.Fatal(err)
		}
		for name, at := range sockets {
			for _, address := range []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"} {
				to := netip.AddrPortFrom(netip.MustParseAddr(address), at.Port())
				want := p == map[string]policy.Protocol{"tcp": policy.TCP, "udp": policy.UDP}[name[:3]] && clash(name[4:], to.Addr())
				if got := met(read, to); got != want {
					t.Errorf("%s, read: %s meets %s: %t, want %t", protocolName(p), name, to, got, want)
				}
				if got := met(told, to); told != nil && got != want {
					t.Errorf("%s, told: %s meets %s: %t, want %t", protocolName(p), name, to, got, want)
				}
			}
		}
	}
}

// clash is whether a socket of a name meets an address.
func clash(name string, to netip.Addr) bool {
	switch name {
	case "local":
		return to.String() == "127.0.0.1" || to == netip.IPv4Unspecified()
	case "all":
		return to.Is4()
	case "local six":
		return to.Is6()
	case "six":
		return to.Is6()
	}
	return true
}

func met(sockets []socket, to netip.AddrPort) bool {
	for _, s := range sockets {
		if s.meets(to) {
			return true
		}
	}
	return false
}

// A kernel without IPv6 has no lists of it, one without any list is an error, and so is what cannot be read.
func TestListsThatAreNotThere(t *testing.T) {
	dir := t.TempDir()
	if _, err := listed(policy.TCP, dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no list: %v", err)
	}
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "tcp"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const names = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	loopback := "0100007F"
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		loopback = "7F000001"
	}
	write(names + "   0: " + loopback + ":1771 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0\n" +
		"   1: " + loopback + ":1772 " + loopback + ":1771 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 20 4 30 10 -1\n")
	all, err := listed(policy.TCP, dir)
	if err != nil || len(all) != 1 || all[0].local != netip.MustParseAddrPort("127.0.0.1:6001") || all[0].inode != 4711 {
		t.Errorf("%+v, %v; want the one that listens", all, err)
	}
	for _, wrong := range []string{"0: 0100007F", "0: 01007F:1771 0 0A 0 0 0 0 0 1", "0: 0100007F:17711 0 0A 0 0 0 0 0 1", "0: 0100007F:1771 0 GG 0 0 0 0 0 1", "0: 0100007F:1771 0 0A 0 0 0 0 0 x"} {
		write(names + wrong)
		if _, err := listed(policy.TCP, dir); err == nil {
			t.Errorf("%q is read", wrong)
		}
	}
}

// Whatever a list may hold is read or refused.
func FuzzParseLine(f *testing.F) {
	f.Add("   0: 0100007F:1771 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1")
	f.Add("   0: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 18 1")
	f.Fuzz(func(t *testing.T, line string) {
		if s, waits, err := parseLine(line, stateListen); err == nil && waits && !s.local.IsValid() {
			t.Errorf("a socket without an address of %q", line)
		}
	})
}
