package machine

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// arrivals has the guest say something to a TCP and to a UDP port of the host's loopback, which QEMU's user mode network shows the
// guest as 10.0.2.2, and returns the networks by which it arrived.
func arrivals(t *testing.T, m *Machine) (networks []string) {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	port := func(a net.Addr) string {
		_, port, err := net.SplitHostPort(a.String())
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	t.Log(sh(t, m, fmt.Sprintf("timeout 3 nc -w 3 10.0.2.2 %s < /dev/null 2>&1 || true", port(tcp.Addr()))))
	t.Log(sh(t, m, fmt.Sprintf("timeout 3 tftp -g -r file -l /dev/null 10.0.2.2 %s 2>&1 || true", port(udp.LocalAddr()))))

	// What arrives last is our own: before it lies what the guest's attempts, which are over, have brought.
	own, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for {
		conn, err := tcp.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if conn.RemoteAddr().String() == own.LocalAddr().String() {
			break
		}
		networks = append(networks, "tcp")
	}
	last, err := net.Dial("udp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	if _, err := last.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	for count := 0; ; count++ {
		_, from, err := udp.ReadFrom(make([]byte, 1500))
		if err != nil {
			t.Fatal(err)
		}
		if from.String() == last.LocalAddr().String() {
			return networks
		}
		if count == 0 { // it is sent again while nobody answers
			networks = append(networks, "udp")
		}
	}
}

// TestVMWayOut is the control of testNoWayOut: from a machine whose network is not restricted, the same attempts arrive.
func TestVMWayOut(t *testing.T) {
	m := prepared(t, config(t, "amd64", "6.12"))
	ctx := bounded(t)
	if err := makePayload("", m.dir.file(payloadFile)); err != nil {
		t.Fatal(err)
	}
	if err := m.launch(ctx, "", "-set", "netdev.net.restrict=off"); err != nil {
		t.Fatal(err)
	}
	if err := m.booted(ctx, m.firstBoot); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"tcp", "udp"}, arrivals(t, m)); diff != "" {
		t.Errorf("what arrives from a machine with a way out (-want +got):\n%s", diff)
	}
}

// testNoWayOut shows that a guest reaches no service of the host, nor a name server, nor anything beyond, though its kernel has
// the routes. TestVMWayOut shows that arrivals would notice; the other attempts must not be made where they would get through.
func testNoWayOut(t *testing.T, m *Machine) {
	if networks := arrivals(t, m); len(networks) > 0 {
		t.Errorf("the host was reached by %v", networks)
	}
	for _, address := range []string{
		"10.0.2.3 53",  // QEMU's name server
		"192.0.2.1 80", // anywhere (an address of documentation)
	} {
		if out := sh(t, m, "nc -w 3 "+address+" < /dev/null && echo connected || echo refused"); !strings.HasSuffix(out, "refused") {
			t.Errorf("nc %s: %s", address, out)
		}
	}
	if out := sh(t, m, "timeout 3 nslookup debian.org 10.0.2.3 2>&1 && echo resolved || echo refused"); !strings.HasSuffix(out, "refused") {
		t.Errorf("nslookup: %s", out)
	}
	if out := sh(t, m, "ping -c 1 -w 2 192.0.2.1 2>&1 && echo answered || echo refused"); !strings.HasSuffix(out, "refused") {
		t.Errorf("ping: %s", out)
	}
	if out := sh(t, m, "ip -6 addr show dev eth0 scope global; ip -6 route show default"); out != "" {
		t.Errorf("IPv6 has addresses or a way out: %s", out)
	}
}
