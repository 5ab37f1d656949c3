package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testphone/barcode"
)

// host is one server: a containerd of its own and an agent. Its own door is the Unix socket.
type host struct {
	door
	bin        binaries
	dir        string
	containerd *testenv.ContainerdServer
	tlsAddr    string
	network    string   // lines of the configuration's section network
	limits     []string // more lines of the configuration's section limits
	agent      *running // the same one for the hosts of sub-tests, which may start another
}

// running is the agent's process, the present one or the last.
type running struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// newHost starts containerd and the agent and imports the image. All of it is gone when the test ends. limits are more lines of the
// configuration's section of that name.
func newHost(t testing.TB, limits ...string) *host {
	t.Helper()
	return newHostWith(t, "enabled = false", limits...)
}

// newHostWith is newHost with the lines of the configuration's section network.
func newHostWith(t testing.TB, network string, limits ...string) *host {
	t.Helper()
	testenv.Root(t)
	containerd := testenv.Containerd(t)
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	// Unix socket paths are short: the test's own temporary directory is not.
	dir, err := os.MkdirTemp("", "phe-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{bin: bin, dir: dir, containerd: containerd, tlsAddr: freeAddress(t), network: network, limits: limits, agent: &running{}}
	h.door = door{t: t, phonectl: bin.path("phonectl"), flags: []string{"--host", "unix://" + h.socket()}}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h.pki()
	h.writeConfig("")
	t.Cleanup(h.stop)
	h.startAgent()
	h.ctl("image", "import", bin.path("testphone.tar"))
	return h
}

// in is the host for a subtest, which fails by itself.
func (h *host) in(t testing.TB) *host {
	sub := *h
	sub.t = t
	return &sub
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (h *host) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

// cgroupRoot is a cgroup of this host only, so that two tests never meet in one.
func (h *host) cgroupRoot() string { return "/" + filepath.Base(h.dir) }

func (h *host) socket() string { return h.path("run", "phonehostd.sock") }

// pki makes a CA and the certificates of the agent and of two clients.
func (h *host) pki() {
	h.t.Helper()
	h.tool("pki", "init", "--dir", h.path("pki"))
	h.tool("pki", "issue", "--dir", h.path("pki"), "agent/e2e")
	h.tool("pki", "issue", "--dir", h.path("pki"), "client/fleet")
	h.tool("pki", "issue", "--dir", h.path("pki"), "client/watcher")
}

// tool runs phonectl without an agent.
func (h *host) tool(args ...string) string {
	h.t.Helper()
	out, err := exec.CommandContext(h.t.Context(), h.bin.path("phonectl"), args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("phonectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// startAgent starts phonehostd and waits until its API answers.
func (h *host) startAgent() {
	h.t.Helper()
	log, err := os.OpenFile(h.path("agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	notify, ready := readySocket(h.t, h.path("notify.sock"))
	cmd := exec.Command(h.bin.path("phonehostd"), "--config", h.path("phonehostd.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	done := make(chan struct{})
	*h.agent = running{cmd, done}
	go func() { cmd.Wait(); close(done) }()
	select {
	case <-ready:
	case <-done:
		h.t.Fatalf("phonehostd ended at once:\n%s", h.tail())
	case <-time.After(60 * time.Second):
		h.t.Fatalf("phonehostd was not ready within a minute:\n%s", h.tail())
	}
}

// readySocket is systemd's side of sd_notify: the channel closes when READY=1 arrives.
func readySocket(t testing.TB, path string) (string, <-chan struct{}) {
	t.Helper()
	os.Remove(path)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ready := make(chan struct{})
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			if strings.Contains(string(buf[:n]), "READY=1") {
				close(ready)
				return
			}
		}
	}()
	return path, ready
}

// killAgent ends the agent as a crash would.
func (h *host) killAgent() {
	h.t.Helper()
	if err := h.agent.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	<-h.agent.done
}

// stop removes the phones and ends the agent in order; the test environment ends containerd after it.
func (h *host) stop() {
	if h.agent.cmd == nil { // it could not be started
		return
	}
	if h.t.Failed() {
		h.t.Logf("the agent's log:\n%s", h.tail())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if out, err := h.command(ctx, "ls", "-o", "json").Output(); err == nil {
		for _, id := range phoneIDs(out) {
			h.command(ctx, "rm", "--force", id).Run()
		}
	}
	h.agent.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-h.agent.done:
	case <-time.After(30 * time.Second):
		h.t.Errorf("phonehostd did not end within 30 s of SIGTERM:\n%s", h.tail())
		h.agent.cmd.Process.Kill()
		<-h.agent.done
	}
}

func (h *host) tail() string {
	text, _ := os.ReadFile(h.path("agent.log"))
	if len(text) > 16<<10 {
		text = text[len(text)-16<<10:]
	}
	return string(text)
}

func phoneIDs(list []byte) []string {
	var answer struct {
		Phones []struct {
			Spec struct {
				ID string `json:"id"`
			} `json:"spec"`
		} `json:"phones"`
	}
	if json.Unmarshal(list, &answer) != nil {
		return nil
	}
	var ids []string
	for _, p := range answer.Phones {
		ids = append(ids, p.Spec.ID)
	}
	return ids
}

// remote is phonectl through the TLS tunnel, as client/fleet.
func (h *host) remote(ctx context.Context, args ...string) *exec.Cmd {
	return h.remoteAs(ctx, "client-fleet", args...)
}

func (h *host) remoteAs(ctx context.Context, cert string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, h.bin.path("phonectl"), append([]string{
		"--host", "tls://" + h.tlsAddr, "--ca", h.path("pki", "ca.pem"),
		"--cert", h.path("pki", cert+".pem"), "--key", h.path("pki", cert+"-key.pem"),
	}, args...)...)
}

// tls runs phonectl through the tunnel, which must succeed.
func (h *host) tls(args ...string) string {
	h.t.Helper()
	return h.must(h.remote(h.t.Context(), args...))
}

// ffprobe returns what ffprobe prints for the entries asked for, and fails on any warning.
func ffprobe(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "ffprobe"), append([]string{"-v", "warning", "-of", "csv=p=0"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("ffprobe %v: %v\n%s", args, err, stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

// decode decodes a file with ffmpeg, which must neither fail nor warn.
func decode(t *testing.T, file string, width, height int) []barcode.RGB24 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "ffmpeg"), "-v", "warning", "-xerror", "-i", file,
		"-fps_mode", "passthrough", "-enc_time_base", "1:1000000", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("ffmpeg %s: %v\n%s", file, err, stderr.String())
	}
	frames, err := barcode.Frames(stdout.Bytes(), width, height)
	if err != nil {
		t.Fatal(err)
	}
	if len(frames) == 0 {
		t.Fatalf("%s has no frames", file)
	}
	return frames
}

func requireContains(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q does not contain %q", text, w)
		}
	}
}
