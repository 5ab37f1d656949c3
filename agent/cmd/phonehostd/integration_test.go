package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/agent/client"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// host is a phonehostd of its own on a containerd of its own.
type host struct {
	t       *testing.T
	dir     string
	program string
	cmd     *exec.Cmd
	ended   chan error
}

func newHost(t *testing.T) *host {
	t.Helper()
	containerd := testenv.Containerd(t)
	// Not t.TempDir: the paths of sockets must be short.
	dir, err := os.MkdirTemp("", "phonehostd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{t: t, dir: dir, program: testenv.Binary(t, "agent/cmd/phonehostd")}
	text := fmt.Sprintf("state_dir = %q\nrun_dir = %q\nlog_dir = %q\n[containerd]\naddress = %q\n[runtime]\ncgroup_root = %q\nlog_binary = %q\n"+
		"[display]\nbinary = %q\n[socket]\npath = %q\ngroup = \"root\"\n[metrics]\nsocket = \"\"\n[log]\nlevel = \"debug\"\n[network]\nenabled = false\n[limits]\ndisk_reserve_bytes = 1048576\n",
		h.path("state"), h.path("run"), h.path("log"), containerd.Address, "/"+filepath.Base(dir), testenv.Binary(t, "runtime/cmd/phone-log"),
		testenv.Binary(t, "encoder/cmd/phone-display"), h.path("run/s"))
	if err := os.WriteFile(h.path("c.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	t.Cleanup(func() {
		if h.cmd != nil {
			h.stop()
		}
	})
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// start runs the agent and returns when it says READY and has answered the watchdog once.
func (h *host) start() {
	h.t.Helper()
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("notify"), Net: "unixgram"})
	if err != nil {
		h.t.Fatal(err)
	}
	defer os.Remove(h.path("notify"))
	defer manager.Close()
	h.cmd = exec.Command(h.program, "--config", h.path("c.toml"))
	h.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+h.path("notify"), "WATCHDOG_USEC=600000000")
	stderr, err := h.cmd.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.ended = make(chan error, 1)
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(h.t.Output(), lines.Text())
		}
		h.ended <- h.cmd.Wait()
		manager.Close()
	}()
	b := make([]byte, 64)
	for _, want := range []string{notifyReady, notifyWatchdog} {
		n, err := manager.Read(b)
		if err != nil || string(b[:n]) != want {
			h.t.Fatalf("the agent said %q, want %q: %v", b[:n], want, err)
		}
	}
}

// kill ends the agent at once.
func (h *host) kill() {
	h.t.Helper()
	if err := h.cmd.Process.Kill(); err != nil {
		h.t.Fatal(err)
	}
	<-h.ended
	h.cmd = nil
}

// stop ends the agent as a service manager does.
func (h *host) stop() {
	h.t.Helper()
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		h.t.Fatal(err)
	}
	if err := <-h.ended; err != nil {
		h.t.Errorf("the agent ended with %v", err)
	}
	h.cmd = nil
}

// dial connects to the agent; done closes the connection.
func (h *host) dial() (phones phonehostv1.PhoneServiceClient, ops phonehostv1.OperationServiceClient, c *client.Client) {
	h.t.Helper()
	c, err := client.Dial(h.t.Context(), client.Options{Host: "unix://" + h.path("run/s")})
	if err != nil {
		h.t.Fatal(err)
	}
	return phonehostv1.NewPhoneServiceClient(c.Control()), phonehostv1.NewOperationServiceClient(c.Control()), c
}

// finish waits for an operation, over whatever agent runs now.
func (h *host) finish(id string) *phonehostv1.Operation {
	h.t.Helper()
	_, ops, c := h.dial()
	defer c.Close()
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	watch, err := ops.Watch(ctx, &phonehostv1.OperationServiceWatchRequest{OperationId: id})
	if err != nil {
		h.t.Fatal(err)
	}
	var op *phonehostv1.Operation
	for {
		m, err := watch.Recv()
		if errors.Is(err, io.EOF) {
			return op
		}
		if err != nil {
			h.t.Fatalf("wait for %s: %v; last %v", id, err, op)
		}
		op = m.GetOperation()
	}
}

// importImage imports the testphone image.
func (h *host) importImage() {
	h.t.Helper()
	data, err := os.ReadFile(testenv.Testphone(h.t))
	if err != nil {
		h.t.Fatal(err)
	}
	_, _, c := h.dial()
	defer c.Close()
	call, err := phonehostv1.NewImageServiceClient(c.Media()).ImportImage(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	for len(data) > 0 {
		n := min(len(data), 64<<10)
		if err := call.Send(&phonehostv1.ImportImageRequest{Chunk: data[:n]}); err != nil {
			break // CloseAndRecv tells why
		}
		data = data[n:]
	}
	if _, err := call.CloseAndRecv(); err != nil {
		h.t.Fatalf("import the testphone image: %v", err)
	}
}

// phone returns the phone that the tests use.
func (h *host) phone() *phonehostv1.Phone {
	h.t.Helper()
	phones, _, c := h.dial()
	defer c.Close()
	answer, err := phones.GetPhone(h.t.Context(), &phonehostv1.GetPhoneRequest{PhoneId: "p1"})
	if err != nil {
		h.t.Fatal(err)
	}
	return answer.GetPhone()
}

// accept asks for a change of the phone and returns the operation's id.
func (h *host) accept(on bool) string {
	h.t.Helper()
	phones, _, c := h.dial()
	defer c.Close()
	if on {
		m, err := phones.PowerOn(h.t.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{"p1"}})
		if err != nil {
			h.t.Fatal(err)
		}
		return m.GetOperation().GetId()
	}
	m, err := phones.PowerOff(h.t.Context(), &phonehostv1.PowerOffRequest{PhoneIds: []string{"p1"}})
	if err != nil {
		h.t.Fatal(err)
	}
	return m.GetOperation().GetId()
}

// TestKilledAnywhere kills the agent at random points of a power-on and of a power-off of a real phone. The next agent takes the
// operation up and brings it to its end; a phone that runs is not touched by a death of the agent.
func TestKilledAnywhere(t *testing.T) {
	h := newHost(t)
	h.importImage()
	phones, _, c := h.dial()
	_, err := phones.CreatePhone(t.Context(), &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{
		Id: "p1", Image: "phonehost.dev/testphone:latest", MemoryBytes: 256 << 20, DataBytes: 64 << 20,
	}})
	c.Close()
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(7, 7))
	for round := range 6 {
		on := round%2 == 0
		id := h.accept(on)
		// The point is drawn from the time that an undisturbed operation takes; wherever it falls, the outcome must be the same.
		timer := time.NewTimer(time.Duration(rnd.IntN(250)) * time.Millisecond)
		<-timer.C
		h.kill()
		h.start()
		op := h.finish(id)
		if op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
			t.Fatalf("round %d: %v", round, op)
		}
		want := phonehostv1.PhoneStatus_PHONE_STATUS_POWERED_OFF
		if on {
			want = phonehostv1.PhoneStatus_PHONE_STATUS_RUNNING
		}
		before := h.phone()
		if before.GetStatus() != want {
			t.Fatalf("round %d: phone is %s, want %s", round, before.GetStatus(), want)
		}
		h.kill()
		h.start()
		if after := h.phone(); after.GetStatus() != want || after.GetInitPid() != before.GetInitPid() || after.GetBootGeneration() != before.GetBootGeneration() {
			t.Fatalf("round %d: the agent's death touched the phone: before %v after %v", round, before, after)
		}
	}
	phones, _, c = h.dial()
	defer c.Close()
	m, err := phones.Delete(t.Context(), &phonehostv1.DeleteRequest{PhoneIds: []string{"p1"}, Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if op := h.finish(m.GetOperation().GetId()); op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Fatalf("delete: %v", op)
	}
	for _, dir := range []string{"run/phones", "run/netns", "state/phones"} {
		if left, _ := os.ReadDir(h.path(dir)); len(left) != 0 {
			t.Errorf("%s still holds %v", dir, left)
		}
	}
}

// TestOneAgentPerStateDirectory starts a second agent beside the first, and looks at the socket.
func TestOneAgentPerStateDirectory(t *testing.T) {
	h := newHost(t)
	info, err := os.Stat(h.path("run/s"))
	if err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("socket: %v %v, want mode 0660", info.Mode(), err)
	}
	out, err := exec.Command(h.program, "--config", h.path("c.toml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another agent runs") {
		t.Errorf("second agent: %v\n%s", err, out)
	}
	h.phone404(t)
	h.stop()
	if _, err := os.Stat(h.path("run/s")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of an agent that ended: %v", err)
	}
	h.start() // and after a death that left its socket
	h.kill()
	h.start()
	h.phone404(t)
}

// phone404 asks for a phone that does not exist: the agent answers.
func (h *host) phone404(t *testing.T) {
	t.Helper()
	phones, _, c := h.dial()
	defer c.Close()
	if _, err := phones.GetPhone(t.Context(), &phonehostv1.GetPhoneRequest{PhoneId: "p1"}); err == nil || !strings.Contains(err.Error(), "no phone") {
		t.Errorf("GetPhone: %v", err)
	}
}
