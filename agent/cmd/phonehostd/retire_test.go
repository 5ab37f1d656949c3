package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/cgroup"
)

// traces is what phones' networks leave on a host.
func (h *host) traces() string {
	h.t.Helper()
	out, err := exec.CommandContext(h.t.Context(), "sh", "-ec",
		"ip -o link | sed 's/ state .*//'; ip route show table all; ip -6 route show table all; nft list ruleset; find /sys/fs/bpf -name 'phonehost-net-*'; ls -d "+h.path("run")+"/n* | grep -v netns || true").CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// judged tells whether what enforces app lists is there: all of it, or nothing.
func (h *host) judged() bool {
	h.t.Helper()
	root := "/" + filepath.Base(h.dir)
	dir, err := cgroup.Dir(root)
	if err != nil {
		h.t.Fatal(err)
	}
	there := 0
	for _, path := range []string{appsDir(root), filepath.Join(dir, ".canary", "guest"), filepath.Join(dir, ".canary")} {
		if _, err := os.Stat(path); err == nil {
			there++
		} else if !errors.Is(err, fs.ErrNotExist) {
			h.t.Fatal(err)
		}
	}
	if there == 1 || there == 2 {
		h.t.Errorf("of what enforces app lists only a part is there")
	}
	return there > 0
}

// eventually waits until a host has what phones' networks leave, or has not.
func (h *host) eventually(what string, wanted func() bool) {
	h.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !wanted() {
		select {
		case <-tick.C:
		case <-limit:
			h.t.Fatalf("%s does not come about; there is\n%s", what, h.traces())
		}
	}
}

// networks turns networks on or off in the configuration.
func (h *host) networks(enabled string) {
	h.t.Helper()
	text, err := os.ReadFile(h.path("c.toml"))
	if err == nil {
		text = bytes.ReplaceAll(text, []byte("[network]\nenabled = true"), []byte("[network]\nenabled = "+enabled))
		text = bytes.ReplaceAll(text, []byte("[network]\nenabled = false"), []byte("[network]\nenabled = "+enabled))
		err = os.WriteFile(h.path("c.toml"), text, 0o600)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// networkRemove runs the command.
func (h *host) networkRemove(args ...string) (string, error) {
	h.t.Helper()
	out, err := exec.CommandContext(h.t.Context(), h.program, append([]string{"network", "remove", "--config", h.path("c.toml")}, args...)...).CombinedOutput()
	return string(out), err
}

// power turns the phone on or off, and waits for it.
func (h *host) power(on bool) {
	h.t.Helper()
	if op := h.finish(h.accept(on)); op.GetState() != phonehostv1.OperationState_OPERATION_STATE_SUCCEEDED {
		h.t.Fatal(op)
	}
}

// guestLinks are the links in the phone's namespace.
func (h *host) guestLinks() string {
	h.t.Helper()
	out, err := exec.CommandContext(h.t.Context(), "nsenter", "--net="+h.path("run/netns/p1"), "ip", "-o", "link").CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// TestNetworksAreTakenOff takes networks off a host by an agent that has them disabled, and by the command.
func TestNetworksAreTakenOff(t *testing.T) {
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
	h.stop()
	before := h.traces()
	made := []string{": ph-", "table inet phonehost", "unreachable 10.213.0.0/16", "phonehost-net-"}

	h.networks("true")
	h.start()
	h.power(true)
	for _, what := range made {
		if !strings.Contains(h.traces(), what) {
			t.Fatalf("a phone with a network leaves no %q:\n%s", what, h.traces())
		}
	}
	nameServers := func() int {
		all, err := filepath.Glob(h.path("run/services/dns/*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	h.eventually("a name server", func() bool { return nameServers() > 0 })
	if out, err := h.networkRemove("--force"); err == nil || !strings.Contains(out, "the agent runs") {
		t.Errorf("the command beside an agent: %v\n%s", err, out)
	}
	h.stop()
	during := h.traces()
	if out, err := h.networkRemove(); err == nil || !strings.Contains(out, "phones run: p1") {
		t.Errorf("the command while a phone runs: %v\n%s", err, out)
	}
	if now := h.traces(); now != during {
		t.Errorf("a refusal changed\n%s\nto\n%s", during, now)
	}

	h.networks("false")
	h.start()
	if now := h.traces(); now != during || nameServers() == 0 || !strings.Contains(h.guestLinks(), "eth0") {
		t.Errorf("an agent with networks disabled took from a phone that runs:\n%s\nbecame\n%s", during, now)
	}
	h.power(false)
	h.eventually("a host without networks", func() bool { return h.traces() == before })
	h.power(true)
	if links := h.guestLinks(); strings.Contains(links, "eth0") || h.traces() != before {
		t.Errorf("a phone that was started without networks has one:\n%s", links)
	}
	h.stop()

	h.networks("true")
	h.start()
	h.eventually("the phone's network", func() bool { return strings.Contains(h.traces(), ": ph-") })
	h.stop()
	if out, err := h.networkRemove("--force"); err != nil || !strings.Contains(out, "are removed") {
		t.Errorf("the command with --force: %v\n%s", err, out)
	}
	for range 2 {
		out, err := h.networkRemove("--force")
		if now := h.traces(); err != nil || now != before {
			t.Errorf("the command: %v\n%s\nBefore\n%s\nand now\n%s", err, out, before, now)
		}
	}
	h.start() // and ends with a host that has networks again
	h.eventually("the phone's network", func() bool { return strings.Contains(h.traces(), ": ph-") })
	h.power(false)
	h.stop()
	if !h.judged() {
		t.Error("what enforces app lists went with the agent")
	}
	if out, err := h.networkRemove(); err != nil {
		t.Errorf("the command on a host whose phones are off: %v\n%s", err, out)
	}
	if h.judged() {
		t.Error("the command leaves what enforces app lists")
	}
	if now := h.traces(); now != before {
		t.Errorf("before\n%s\nafter\n%s", before, now)
	}
	h.networks("false")
	h.start()
}
