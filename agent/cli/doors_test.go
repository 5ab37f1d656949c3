package cli

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/access"
	"github.com/phonehost/phonehost/agent/tunnel"
)

// authority is a test CA that `phonectl pki` has made.
type authority struct{ dir string }

func newAuthority(t *testing.T, identities ...string) authority {
	t.Helper()
	ca := authority{dir: t.TempDir()}
	ca.mustRun(t, "pki", "init", "--dir", ca.dir)
	for _, id := range identities {
		out := ca.mustRun(t, "pki", "issue", id, "--dir", ca.dir, "--ip", "127.0.0.1", "--dns", "localhost")
		if cert, key := ca.files(id); out != "certificate  "+cert+"\nkey          "+key+"\n" {
			t.Errorf("issue %s printed %q", id, out)
		}
	}
	return ca
}

// mustRun runs a phonectl that needs no agent.
func (authority) mustRun(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := Run(t.Context(), Config{Args: args, Stdout: &stdout, Stderr: &stderr}); code != exitDone {
		t.Fatalf("%v: exit code %d, %s", args, code, &stderr)
	}
	return stdout.String()
}

func (ca authority) files(identity string) (cert, key string) {
	name := strings.Replace(identity, "/", "-", 1)
	return filepath.Join(ca.dir, name+".pem"), filepath.Join(ca.dir, name+"-key.pem")
}

// flags are the global flags of a client.
func (ca authority) flags(identity string) []string {
	cert, key := ca.files(identity)
	return []string{"--ca", filepath.Join(ca.dir, "ca.pem"), "--cert", cert, "--key", key}
}

func (ca authority) certificates(t *testing.T, identity string) *tunnel.Certificates {
	t.Helper()
	cert, key := ca.files(identity)
	certs, err := tunnel.LoadCertificates(tunnel.CertificateFiles{Cert: cert, Key: key, CA: filepath.Join(ca.dir, "ca.pem")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// serveStreams serves a fake agent to what comes through network doors.
func serveStreams(t *testing.T, agent *fakeAgent) *tunnel.Streams {
	t.Helper()
	streams := tunnel.NewStreams()
	roles := access.Roles{Clients: map[string]access.Role{"hub": access.RoleAdmin, "fleet": access.RoleAdmin, "guest": access.RoleViewer}}
	var options []grpc.ServerOption
	options = append(options, access.Interceptors(access.Config{Roles: roles})...)
	options = append(options, tunnel.ServerOptions()...)
	t.Cleanup(agent.serve(t, streams, options...))
	return streams
}

// call runs phonectl with flags before its arguments.
func call(t *testing.T, flags []string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := Run(t.Context(), Config{
		Args: append(append([]string{}, flags...), args...), Stdout: &stdout, Stderr: &stderr, Version: "1.0.0",
		Now: func() time.Time { return testNow },
	})
	return result{code, stdout.String(), stderr.String()}
}

// livePhone gives the agent a phone that runs.
func livePhone(t *testing.T, agent *fakeAgent, flags []string) {
	t.Helper()
	agent.images.add("testphone", fakeDigest, 1)
	for _, args := range [][]string{{"create", "cp-1", "--image", "testphone"}, {"on", "cp-1"}} {
		if r := call(t, flags, args...); r.code != exitDone {
			t.Fatalf("%v: %+v", args, r)
		}
	}
}

func TestThroughTheTLSDoor(t *testing.T) {
	ca := newAuthority(t, "agent/rack-1", "client/fleet", "client/guest", "client/stranger")
	agent := newFakeAgent()
	door, err := tunnel.NewDoor(tunnel.DoorConfig{Certificates: ca.certificates(t, "agent/rack-1"), Streams: serveStreams(t, agent)})
	if err != nil {
		t.Fatal(err)
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- door.Serve(ctx, port) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	flags := func(identity string) []string {
		return append(ca.flags(identity), "--host", "tls://"+port.Addr().String())
	}
	livePhone(t, agent, flags("client/fleet"))
	agent.streams.video = x264(t, 30)
	file := filepath.Join(t.TempDir(), "out.mp4")
	if r := call(t, flags("client/fleet"), "record", "cp-1", "-f", file, "--frames", "30"); r.code != exitDone || decodes(t, file) != 30 {
		t.Errorf("record: %+v", r)
	}
	if r := call(t, flags("client/fleet"), "--agent", "rack-2", "ls"); r.code != exitFailed || !strings.Contains(r.stderr, "rack-2") {
		t.Errorf("another agent's name: %+v", r)
	}
	if r := call(t, flags("client/guest"), "ls"); r.code != exitDone || !strings.Contains(r.stdout, "2 RUNNING") {
		t.Errorf("a viewer lists: %+v", r)
	}
	if r := call(t, flags("client/guest"), "off", "cp-1"); r.code != exitFailed || !strings.Contains(r.stderr, "phonehostd.toml") {
		t.Errorf("a viewer powers off: %+v", r)
	}
	if r := call(t, flags("client/stranger"), "ls"); r.code != exitFailed || r.stderr == "" {
		t.Errorf("a stranger lists: %+v", r)
	}
	if r := call(t, []string{"--host", "tls://" + port.Addr().String()}, "ls"); r.code != exitFailed || !strings.Contains(r.stderr, "cert") {
		t.Errorf("no certificate: %+v", r)
	}
}

func TestThroughTheHub(t *testing.T) {
	ca := newAuthority(t, "agent/rack-1", "client/hub", "client/fleet", "client/guest")
	ctx, cancel := context.WithCancel(context.Background())
	listening, connected := make(chan string, 1), make(chan struct{})
	addr := regexp.MustCompile(`msg="hub listens" addr=(\S+)`)
	var stderr *watchedWriter
	stderr = &watchedWriter{on: "hub listens", do: func() {
		if m := addr.FindStringSubmatch(stderr.String()); m != nil && listening != nil {
			listening <- m[1]
			listening = nil
		}
		if strings.Contains(stderr.String(), "agent connected") && connected != nil {
			close(connected)
			connected = nil
		}
	}}
	here, there := listening, connected // the writer forgets them when they have been used
	ended := make(chan int, 1)
	go func() {
		ended <- Run(ctx, Config{
			Args:   append(ca.flags("client/hub"), "hub", "--listen", "127.0.0.1:0", "--allow", "fleet"),
			Stdout: &bytes.Buffer{}, Stderr: stderr,
		})
	}()
	hub := <-here
	agent := newFakeAgent()
	out, err := tunnel.NewDialOut(tunnel.DialOutConfig{
		Addresses: []string{hub}, Certificates: ca.certificates(t, "agent/rack-1"), Streams: serveStreams(t, agent),
	})
	if err != nil {
		t.Fatal(err)
	}
	dialing := make(chan error, 1)
	go func() { dialing <- out.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-dialing; err != nil {
			t.Error(err)
		}
		if code := <-ended; code != exitDone {
			t.Errorf("the hub ended with exit code %d: %s", code, stderr)
		}
	}()
	<-there

	flags := append(ca.flags("client/fleet"), "--hub", hub)
	if r := call(t, flags, "agents"); r.code != exitDone || !strings.Contains(r.stdout, "rack-1") {
		t.Errorf("agents: %+v", r)
	}
	if r := call(t, flags, "agents", "-o", "json"); r.code != exitDone || !strings.Contains(r.stdout, `"name": "rack-1"`) {
		t.Errorf("agents as JSON: %+v", r)
	}
	one := append(flags, "--agent", "rack-1")
	livePhone(t, agent, one)
	if r := call(t, one, "input", "cp-1", "tap", "1", "2", "--hold", "0s"); r.code != exitDone {
		t.Errorf("tap: %+v", r)
	}
	if r := call(t, append(flags, "--agent", "rack-2"), "ls"); r.code != exitFailed || !strings.Contains(r.stderr, "rack-2") {
		t.Errorf("an agent that is not there: %+v", r)
	}
	if r := call(t, append(ca.flags("client/guest"), "--hub", hub), "agents"); r.code != exitFailed || r.stderr == "" {
		t.Errorf("a client that the hub does not allow: %+v", r)
	}
}

func TestPKIRefusals(t *testing.T) {
	ca := newAuthority(t, "client/fleet")
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"a second CA", []string{"pki", "init", "--dir", ca.dir}, exitFailed, "is there; replace it with --force"},
		{"the same certificate", []string{"pki", "issue", "client/fleet", "--dir", ca.dir}, exitFailed, "is there; replace it with --force"},
		{"no CA", []string{"pki", "issue", "client/fleet", "--dir", t.TempDir()}, exitFailed, "phonectl pki init"},
		{"no identity", []string{"pki", "issue", "fleet", "--dir", ca.dir}, exitUsage, "want agent/NAME or client/NAME"},
		{"a hub without a certificate", []string{"hub", "--listen", ":0", "--allow", "x"}, exitUsage, "`phonectl pki issue client/hub`"},
		{"a hub with an agent's identity", append(newAuthority(t, "agent/rack-1").flags("agent/rack-1"), "hub", "--listen", ":0", "--allow", "x"), exitFailed, "phonehost://client/NAME"},
		{"agents of no hub", []string{"agents"}, exitUsage, "--hub"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r := call(t, nil, tt.args...); r.code != tt.code || !strings.Contains(r.stderr, tt.want) {
				t.Errorf("%+v, want exit code %d and %q", r, tt.code, tt.want)
			}
		})
	}
}
