package e2e

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBadRequests sends what nobody should send: each gets an error that names what is wrong, and nothing is left behind.
func TestBadRequests(t *testing.T) {
	h := newHost(t)
	create := func(id string, more ...string) []string {
		return append([]string{"create", id, "--image", "phonehost.dev/testphone:latest", "--memory", "256MiB"}, more...)
	}
	for _, tt := range []struct {
		name string
		code int
		args []string
		want []string
	}{
		{"unknown image", 1, []string{"create", "p1", "--image", "example.com/none:1", "--memory", "256MiB"}, []string{"example.com/none:1", "image"}},
		{"upper-case id", 1, create("Phone"), []string{"id", "Phone"}},
		{"id with a slash", 1, create("../p1"), []string{"id"}},
		{"id of 33 characters", 1, create(strings.Repeat("a", 33)), []string{"id", "32"}},
		{"absurd display", 1, create("p1", "--display", "9000x9000@30"), []string{"display", "4096"}},
		{"display of seven digits", 2, create("p1", "--display", "1000000x1000000@30"), []string{"display", "widthxheight"}},
		{"odd display", 1, create("p1", "--display", "721x1280@30"), []string{"display", "even"}},
		{"frame rate 0 is the default, 1000 is not", 1, create("p1", "--display", "720x1280@1000"), []string{"fps", "120"}},
		{"memory 0", 1, []string{"create", "p1", "--image", "phonehost.dev/testphone:latest", "--memory", "0"}, []string{"memory"}},
		{"more memory than the host", 1, []string{"create", "p1", "--image", "phonehost.dev/testphone:latest", "--memory", "900TiB"}, []string{"memory"}},
		{"unknown profile", 1, create("p1", "--profile", "toaster"), []string{"profile", "toaster", "testphone"}},
		{"memory that is no size", 2, []string{"create", "p1", "--image", "x", "--memory", "much"}, []string{"memory", "much"}},
		{"no such phone", 1, []string{"on", "nobody"}, []string{"nobody"}},
		{"off what is off", 1, []string{"off", "idle"}, []string{"idle"}},
		{"screenshot of what is off", 1, []string{"screenshot", "idle", "-f", filepath.Join(h.dir, "x.png")}, []string{"phonectl on idle"}},
		{"unknown command", 2, []string{"explode"}, []string{"explode"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.args[len(tt.args)-1] == "idle" || strings.Contains(tt.name, "is off") {
				h.command(t.Context(), create("idle")...).Run()
			}
			requireContains(t, strings.ToLower(h.in(t).refused(tt.code, tt.args...)), lower(tt.want)...)
		})
	}
	h.command(t.Context(), "rm", "idle").Run()
	if ids := phoneIDs([]byte(h.ctl("ls", "-o", "json"))); len(ids) != 0 {
		t.Errorf("phones were left behind: %v", ids)
	}
	h.nothingLeft("p1")
}

func lower(words []string) []string {
	var out []string
	for _, w := range words {
		out = append(out, strings.ToLower(w))
	}
	return out
}

// TestDamagedImage imports an archive that was cut and one that is noise.
func TestDamagedImage(t *testing.T) {
	h := newHost(t)
	whole, err := os.ReadFile(h.bin.path("testphone.tar"))
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 1<<20)
	rand.Read(noise)
	before := h.ctl("image", "ls", "-o", "json")
	for name, content := range map[string][]byte{"cut": whole[:len(whole)/2], "noise": noise, "empty": nil} {
		file := h.path(name + ".tar")
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
		requireContains(t, h.refused(1, "image", "import", file), "archive")
	}
	if after := h.ctl("image", "ls", "-o", "json"); after != before {
		t.Errorf("the images changed from %s to %s", before, after)
	}
}

// TestGarbageAtTheTunnel sends noise, a plain TLS client and a client with an agent's identity to the TLS door; a proper client is
// served all the while, and the log says what was refused and why.
func TestGarbageAtTheTunnel(t *testing.T) {
	h := newHost(t)
	for range 3 {
		conn, err := net.DialTimeout("tcp", h.tlsAddr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		noise := make([]byte, 4096)
		rand.Read(noise)
		noise[0] = 'G' // never a TLS record
		conn.Write(noise)
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := bufio.NewReader(conn).ReadString(0); err == nil {
			t.Error("noise was answered")
		} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Error("the connection was not closed")
		}
		conn.Close()
	}
	h.tool("pki", "issue", "--dir", h.path("pki"), "agent/other")
	requireContains(t, h.mustRefuse(1, h.remoteAs(t.Context(), "agent-other", "ls")), "agent/other") // refused before it is sent
	h.dialAs("agent-other")                                                                          // and where it is sent all the same

	h.tool("pki", "init", "--dir", h.path("stranger"))
	h.tool("pki", "issue", "--dir", h.path("stranger"), "client/fleet")
	for _, ext := range []string{".pem", "-key.pem"} {
		text, err := os.ReadFile(h.path("stranger", "client-fleet"+ext))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.path("pki", "client-stranger"+ext), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.mustRefuse(1, h.remoteAs(t.Context(), "client-stranger", "ls"))

	h.tls("ls")
	requireContains(t, h.tail(), "agent/other", "unknown authority")

	// Roles: a viewer may look and may not touch.
	h.must(h.remoteAs(t.Context(), "client-watcher", "ls"))
	requireContains(t, h.mustRefuse(1, h.remoteAs(t.Context(), "client-watcher", "on", "p1")), "client/watcher", "viewer", "operator")
}

// dialAs opens a TLS connection with a certificate that the agent must refuse.
func (h *host) dialAs(cert string) {
	h.t.Helper()
	pair, err := tls.LoadX509KeyPair(h.path("pki", cert+".pem"), h.path("pki", cert+"-key.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", h.tlsAddr, &tls.Config{
		Certificates: []tls.Certificate{pair}, NextProtos: []string{"phonehost-control/1"}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // whom we speak to is not what this test is about
	})
	if err != nil {
		return // refused in the handshake
	}
	defer conn.Close()
	// With TLS 1.3 a client learns with its first read that its certificate was refused.
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		h.t.Errorf("%s was let in: %v", cert, err)
	}
}

// TestFloodWhileAgentIsDead lets a guest print a GiB while nobody runs the agent: it is not held up, and the log stays bounded.
func TestFloodWhileAgentIsDead(t *testing.T) {
	h := newHost(t)
	h.create("p1")
	h.create("p2")
	guest := h.show("p1").InitPID
	h.ctl("exec", "p1", "--", "setprop", "debug.testphone.flood", "1GiB")
	h.killAgent()
	// The guest says on its own /data when it has printed everything.
	done := filepath.Join("/proc", itoa(guest), "root", "data", "flood.done")
	waitFile(t, done, 5*time.Minute)
	var size int64
	entries, err := filepath.Glob(h.path("log", "p1", "*"))
	if err != nil || len(entries) == 0 {
		t.Fatalf("no log files: %v", err)
	}
	for _, e := range entries {
		info, err := os.Stat(e)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 40<<20 {
		t.Errorf("the phone's logs take %d bytes", size)
	}
	h.startAgent()
	for _, id := range []string{"p1", "p2"} {
		if p := h.show(id); p.Status != "PHONE_STATUS_RUNNING" {
			t.Errorf("%s is %+v", id, p)
		}
	}
	requireContains(t, h.ctl("logs", "p1"), "dropped")
}
