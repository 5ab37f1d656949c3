package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/phonehost/phonehost/scripts/testenv/netlab"
	"github.com/phonehost/phonehost/scripts/testphone/apkmake"
)

// The server has public addresses behind the host's router, which it is itself, and answers for every name.
const (
	server4 = "203.0.114.2"
	server6 = "2001:4860::2"
)

// newNetHost is a host whose phones have networks, and the server that they reach by it.
func newNetHost(t *testing.T) (*host, netlab.Namespace) {
	t.Helper()
	server := netlab.Make(t, "server")
	server.Wire(t, []string{"192.168.77.1/24", "fd00:77::1/64"}, []string{"192.168.77.2/24", "fd00:77::2/64"})
	for _, a := range []struct{ address, gateway string }{{server4 + "/32", "192.168.77.2"}, {server6 + "/128", "fd00:77::2"}} {
		server.Run(t, "ip", "address", "add", a.address, "dev", "lo")
		netlab.Host().Run(t, "ip", "route", "add", "default", "via", a.gateway)
	}
	serveNames(t, server)
	serveTCP(t, server, ":80")
	serveTCP(t, server, ":81")
	return newHostWith(t, `name_servers = ["`+server4+`"]`), server
}

// serveNames answers every question for an address with the server's.
func serveNames(t *testing.T, server netlab.Namespace) {
	t.Helper()
	var conn net.PacketConn
	if err := server.Do(func() (err error) { conn, err = net.ListenPacket("udp", server4+":53"); return err }); err != nil {
		t.Fatal(err)
	}
	names := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		header := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 60}
		switch header.Rrtype {
		case dns.TypeA:
			answer.Answer = []dns.RR{&dns.A{Hdr: header, A: net.ParseIP(server4)}}
		case dns.TypeAAAA:
			answer.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: net.ParseIP(server6)}}
		}
		_ = w.WriteMsg(answer)
	})}
	done := make(chan error, 1)
	go func() { done <- names.ActivateAndServe() }()
	t.Cleanup(func() {
		if err := names.Shutdown(); err != nil {
			t.Error(err)
		}
		<-done
	})
}

// serveTCP accepts connections and keeps them until the test ends.
func serveTCP(t *testing.T, ns netlab.Namespace, address string) {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
		}
	}()
}

// installNet installs the app that connects.
func (h *host) installNet(id string) {
	h.t.Helper()
	h.ctl("app", "install", netAPK(h.t, h.path("net.apk")), id)
}

// netAPK writes the APK of the app that connects, and returns the file's name.
func netAPK(t testing.TB, file string) string {
	t.Helper()
	key, err := apkmake.NewKey("e2e")
	if err != nil {
		t.Fatal(err)
	}
	apk, err := apkmake.Make(apkmake.App{
		Package: "com.example.net", VersionCode: 1, MinSDK: 24, Label: "Net", Activities: []string{"com.example.net.Main"}, Permissions: []string{"android.permission.INTERNET"},
	}, key)
	if err == nil {
		err = os.WriteFile(file, apk, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// connects has an app of a phone connect, and tells whether it could. What is dropped is waited for for a moment only.
func (h *host) connects(id, to string, patience string) bool {
	h.t.Helper()
	out := h.ctl("run", id, "--", "am", "broadcast", "-n", "com.example.net/.Net", "--es", "url", "tcp://"+to, "--ei", "timeout", patience)
	return strings.Contains(out, "connected to")
}

// dialFrom asks a phone's name server for a name and connects to port 80 of what it says, in the phone's network, whether or not the agent lives.
func (h *host) dialFrom(id, name string) error {
	ns := netlab.Namespace{Name: id, Path: h.path("run", "netns", id)}
	return ns.Do(func() error {
		client := &dns.Client{Timeout: 20 * time.Second}
		answer, _, err := client.ExchangeContext(h.t.Context(), new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), "10.213.0.1:53")
		if err != nil || len(answer.Answer) != 1 {
			return fmt.Errorf("asked for %s: %v, %w", name, answer, err)
		}
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(answer.Answer[0].(*dns.A).A.String(), "80"), 20*time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// TestNetwork uses the phones' networks as an SRE does: a policy from a file, its changes, forwards, limits, and what the commands tell.
func TestNetwork(t *testing.T) {
	h, _ := newNetHost(t)
	file := filepath.Join(h.dir, "school.policy")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		h.ctl("net", "policy", "put", file)
	}
	write("default deny-all\nallow egress tcp *.example.com 80\n")
	h.create("p1")
	h.installNet("p1")
	if !h.connects("p1", server4+":80", "20000") || !h.connects("p1", "["+server6+"]:80", "20000") {
		t.Fatal("a phone without a policy of its own does not reach the server")
	}
	if h.connects("p1", "192.168.77.2:80", "500") {
		t.Error("a phone reaches a machine of the host's network")
	}
	h.ctl("net", "assign", "school", "p1")
	if h.connects("p1", server4+":80", "500") {
		t.Error("an address is open that no name was given out for")
	}
	if !h.connects("p1", "www.example.com:80", "20000") {
		t.Error("a name that the policy allows does not lead to the server")
	}
	if h.connects("p1", "www.example.org:80", "500") || h.connects("p1", "www.example.com:81", "500") {
		t.Error("a name or port that the policy does not allow leads to the server")
	}
	h.waitFor("denials of a name and of a port", func() bool {
		out := h.ctl("net", "denials", "p1")
		return strings.Contains(out, "www.example.org") && strings.Contains(out, server4) && strings.Contains(out, "192.168.77.2")
	})
	// What would be dropped is no success.
	var dropped *exec.ExitError
	out, err := h.command(t.Context(), "net", "test", "p1", "--to", server4+":81").Output()
	if requireContains(t, string(out), "deny-all"); !errors.As(err, &dropped) || dropped.ExitCode() != 1 {
		t.Errorf("net test of what would be dropped ended with %v", err)
	}
	h.killAgent()
	if err := h.dialFrom("p1", "other.example.com"); err != nil {
		t.Errorf("with the agent dead names do not resolve, or what they lead to is not open: %v", err)
	}
	h.startAgent()
	h.ctl("net", "cut", "p1")
	if h.connects("p1", "www.example.com:80", "500") {
		t.Error("a phone that is cut reaches the server")
	}
	h.ctl("net", "restore", "p1")
	if !h.connects("p1", "www.example.com:80", "20000") {
		t.Error("a phone that was restored does not reach the server")
	}
	if out := h.ctl("net", "show", "p1"); !strings.Contains(out, "school") || !strings.Contains(out, "10.213.0.2") {
		t.Errorf("net show does not tell the policy and the address:\n%s", out)
	}
}
