package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/agent/client"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/scripts/gobuild"
	"github.com/phonehost/phonehost/scripts/testenv"
	testphone "github.com/phonehost/phonehost/scripts/testphone/image"
)

// images are the names of images of different digests. Phones are made from the first two; the third is what is imported.
var images = [3]string{testphone.Name, "phonehost.dev/testphone:other", "phonehost.dev/testphone:third"}

// host is an agent with crash points on a containerd of its own.
type host struct {
	t          testing.TB
	dir        string
	program    string
	containerd *testenv.ContainerdServer
	ctrd       *containerd.Client
	archives   [3][]byte
	apk        []byte
	leases     map[string]time.Time // the ends that are set, by request

	cmd    *exec.Cmd
	ended  chan struct{} // closed when the agent has ended
	api    *client.Client
	plans  int    // written so far
	second string // plan for the agent that is revived next
	seq    uint64 // of the last event that was read
}

// newHost starts a host, whose state lies on a small file system of its own.
func newHost(t testing.TB) *host {
	t.Helper()
	testenv.Root(t)
	server := testenv.Containerd(t)
	if _, ok := testenv.Prebuilt(""); ok {
		testenv.Missing(t, "go", "an agent with crash points is built by the test, and there is no go command here")
	}
	program, err := gobuild.Build(t.Context(), gobuild.Request{
		Package: "agent/cmd/phonehostd", Variant: "faults", Env: []string{"CGO_ENABLED=0"}, Flags: []string{"-tags", "faults"},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "phs-") // not t.TempDir: the paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{t: t, dir: dir, program: program, containerd: server, ctrd: server.Client(t)}
	if err := os.Mkdir(h.path("faults"), 0o700); err != nil {
		t.Fatal(err)
	}
	smallDisk(t, dir)
	h.configure()
	if err := h.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.stop)
	h.importImages()
	return h
}

func (h *host) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

func (h *host) configure() {
	h.t.Helper()
	text := fmt.Sprintf("state_dir = %q\nrun_dir = %q\nlog_dir = %q\n[containerd]\naddress = %q\n[runtime]\ncgroup_root = %q\nlog_binary = %q\n"+
		"[display]\nbinary = %q\n[socket]\npath = %q\ngroup = \"root\"\n[metrics]\nsocket = \"\"\n[log]\nlevel = \"debug\"\n[network]\nenabled = false\n[limits]\ndisk_reserve_bytes = 1048576\n",
		h.path("state"), h.path("run"), h.path("log"), h.containerd.Address, "/"+filepath.Base(h.dir), testenv.Binary(h.t, "runtime/cmd/phone-log"),
		testenv.Binary(h.t, "encoder/cmd/phone-display"), h.path("run", "s"))
	if err := os.WriteFile(h.path("c.toml"), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// startLimit bounds a start of the agent, adoption included.
const startLimit = time.Minute

// start runs the agent and returns when it is READY.
func (h *host) start() error {
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("notify"), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer os.Remove(h.path("notify"))
	defer manager.Close()
	log, err := os.OpenFile(h.path("agent.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(h.program, "--config", h.path("c.toml"))
	cmd.Stderr = log
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+h.path("notify"), "PHONEHOST_FAULTS="+h.path("faults"))
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
		manager.Close()
	}()
	h.cmd, h.ended = cmd, ended
	if err := manager.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		return err
	}
	b := make([]byte, 64)
	n, err := manager.Read(b)
	if err != nil || !strings.Contains(string(b[:n]), "READY=1") {
		return fmt.Errorf("start phonehostd: it said %q: %v\n%s", b[:n], err, h.tail())
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	h.api, err = client.Dial(ctx, client.Options{Host: "unix://" + h.path("run", "s")})
	return err
}

// isDead reports whether the agent has ended, and waits a moment for it.
func (h *host) isDead(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-h.ended:
		return true
	case <-timer.C:
	}
	select { // of two that are ready, the first one is not always taken above
	case <-h.ended:
		return true
	default:
		return false
	}
}

// revive starts another agent after the death of the last one; one that a plan kills before it is ready is followed by a third.
func (h *host) revive() error {
	<-h.ended
	_ = h.api.Close() // its other end is gone
	if h.second == "" {
		return h.start()
	}
	h.plan(h.second)
	h.second = ""
	err := h.start()
	if err != nil && h.isDead(0) && h.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return h.start()
	}
	return err
}

// kill ends the agent at once.
func (h *host) kill() {
	_ = h.cmd.Process.Kill() // no error but that it has ended already
	<-h.ended
}

// stop ends the agent and what is left of its phones.
func (h *host) stop() {
	if h.t.Failed() {
		h.t.Logf("the end of the agent's log:\n%s", h.tail())
	}
	h.plan()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if answer, err := h.phones().ListPhones(ctx, &phonehostv1.ListPhonesRequest{}); err == nil {
		for _, p := range answer.GetPhones() {
			_ = h.remove(ctx, p.GetSpec().GetId())
		}
	}
	_ = h.api.Close()
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	if !h.isDead(30 * time.Second) {
		h.t.Errorf("phonehostd did not end within 30 s of SIGTERM")
		h.kill()
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		roots, err := filepath.Glob(filepath.Join(pattern, filepath.Base(h.dir)))
		for _, root := range roots {
			err = errors.Join(err, os.Remove(root))
		}
		if err != nil {
			h.t.Errorf("remove the phones' cgroup: %v", err)
		}
	}
}

// tail is the end of the log of the present agent.
func (h *host) tail() string {
	text, _ := os.ReadFile(h.path("agent.log"))
	return string(text[max(0, len(text)-6<<10):])
}

// plan says what is to happen at the points from now on; without lines nothing.
func (h *host) plan(lines ...string) {
	h.t.Helper()
	h.plans++
	text := fmt.Sprintf("# %d\n%s\n", h.plans, strings.Join(lines, "\n"))
	if err := os.WriteFile(h.path("faults", "new"), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(h.path("faults", "new"), h.path("faults", "plan")); err != nil {
		h.t.Fatal(err)
	}
}

// reached returns the points that were passed while a plan recorded them, in order, and which of them can fail, and forgets them.
func (h *host) reached() (points []string, fallible map[string]bool) {
	h.t.Helper()
	text, err := os.ReadFile(h.path("faults", "reached"))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.Remove(h.path("faults", "reached")); err != nil {
		h.t.Fatal(err)
	}
	fallible = map[string]bool{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		points = append(points, words[0])
		if len(words) > 1 {
			fallible[words[0]] = true
		}
	}
	return points, fallible
}

func (h *host) phones() phonehostv1.PhoneServiceClient {
	return phonehostv1.NewPhoneServiceClient(h.api.Control())
}

func (h *host) operations() phonehostv1.OperationServiceClient {
	return phonehostv1.NewOperationServiceClient(h.api.Control())
}

// importImages makes the images, one program with different labels, and imports them.
func (h *host) importImages() {
	h.t.Helper()
	program, err := testphone.Build(h.t.Context(), runtime.GOARCH, "soak")
	if err != nil {
		h.t.Fatal(err)
	}
	for i, name := range images {
		var b bytes.Buffer
		err := testphone.Write(&b, testphone.Config{Version: fmt.Sprintf("soak-%d", i), Programs: map[string][]byte{runtime.GOARCH: program}})
		if err != nil {
			h.t.Fatal(err)
		}
		h.archives[i] = b.Bytes()
		if err := h.importImage(h.t.Context(), name, b.Bytes()); err != nil {
			h.t.Fatal(err)
		}
	}
}

// removeThird makes room for an import.
func removeThird(ctx context.Context, h *host) error {
	_, err := phonehostv1.NewImageServiceClient(h.api.Control()).RemoveImage(ctx, &phonehostv1.RemoveImageRequest{Name: images[2]})
	if status.Code(err) == codes.NotFound {
		return nil
	}
	return err
}

func (h *host) importImage(ctx context.Context, name string, data []byte) error {
	call, err := phonehostv1.NewImageServiceClient(h.api.Media()).ImportImage(ctx)
	if err != nil {
		return err
	}
	for first := true; len(data) > 0; first = false {
		m := &phonehostv1.ImportImageRequest{Chunk: data[:min(len(data), 64<<10)]}
		if first {
			m.Name = name
		}
		if err := call.Send(m); err != nil {
			break // CloseAndRecv tells why
		}
		data = data[len(m.Chunk):]
	}
	_, err = call.CloseAndRecv()
	return err
}

// finish waits for the end of an operation.
func (h *host) finish(ctx context.Context, id string) (*phonehostv1.Operation, error) {
	watch, err := h.operations().Watch(ctx, &phonehostv1.OperationServiceWatchRequest{OperationId: id})
	if err != nil {
		return nil, err
	}
	var op *phonehostv1.Operation
	for {
		m, err := watch.Recv()
		if err != nil {
			if op != nil && op.GetState() != phonehostv1.OperationState_OPERATION_STATE_RUNNING {
				return op, nil
			}
			return nil, errors.Join(fmt.Errorf("wait for operation %s, last %v", id, op), err)
		}
		op = m.GetOperation()
	}
}

// remove deletes a phone by force and waits until it is gone.
func (h *host) remove(ctx context.Context, id string) error {
	answer, err := h.phones().Delete(ctx, &phonehostv1.DeleteRequest{PhoneIds: []string{id}, Force: true})
	if err != nil {
		return err
	}
	_, err = h.finish(ctx, answer.GetOperation().GetId())
	return err
}
