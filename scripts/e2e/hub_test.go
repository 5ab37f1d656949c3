package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// hub is `phonectl hub`: a control plane that agents dial.
type hub struct {
	h    *host
	addr string
	cmd  *exec.Cmd
	log  bytes.Buffer
}

// start starts the hub, also again after kill.
func (b *hub) start() {
	b.h.t.Helper()
	b.cmd = exec.Command(b.h.bin.path("phonectl"), "hub", "--listen", b.addr, "--allow", "fleet", "--ca", b.h.path("pki", "ca.pem"),
		"--cert", b.h.path("pki", "client-hub.pem"), "--key", b.h.path("pki", "client-hub-key.pem"))
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	if err := b.cmd.Start(); err != nil {
		b.h.t.Fatal(err)
	}
}

// kill ends the hub as a crash would.
func (b *hub) kill() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
}

// ctl is phonectl through the hub, as client/fleet.
func (b *hub) ctl(args ...string) *exec.Cmd {
	return exec.CommandContext(b.h.t.Context(), b.h.bin.path("phonectl"), append([]string{
		"--hub", b.addr, "--ca", b.h.path("pki", "ca.pem"),
		"--cert", b.h.path("pki", "client-fleet.pem"), "--key", b.h.path("pki", "client-fleet-key.pem"),
	}, args...)...)
}

// waitAgent asks the hub again and again for its agents, until both sessions of the agent are there: it tells nobody when one comes.
func (b *hub) waitAgent(name string) {
	b.h.t.Helper()
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		if out, err := b.ctl("agents").Output(); err == nil && strings.Contains(string(out), name) && strings.Contains(string(out), "control,media") {
			return
		}
		select {
		case <-again.C:
		case <-limit.C:
			b.h.t.Fatalf("%s did not come to the hub:\n%s\n%s", name, b.log.String(), b.h.tail())
		}
	}
}

// TestHub lets an agent dial out, reaches its phone through the hub, and kills the hub: the agent comes back by itself.
func TestHub(t *testing.T) {
	h := newHost(t)
	h.create("p1")
	h.tool("pki", "issue", "--dir", h.path("pki"), "client/hub")
	b := &hub{h: h, addr: freeAddress(t)}
	b.start()
	t.Cleanup(b.kill)

	h.killAgent()
	h.writeConfig(fmt.Sprintf("[[dial]]\naddress = %q\nname = \"hub\"\n\n[[access]]\nidentity = \"client/hub\"\nrole = \"admin\"\n", b.addr))
	h.startAgent()
	b.waitAgent("e2e")
	requireContains(t, h.must(b.ctl("--agent", "e2e", "ls")), "p1", "RUNNING")
	h.must(b.ctl("--agent", "e2e", "record", "p1", "--duration", "1s", "-f", h.path("hub.h264")))
	increasing(t, "through the hub", decode(t, h.path("hub.h264"), 720, 1280))
	requireContains(t, h.mustRefuse(1, b.ctl("--agent", "nobody", "ls")), "nobody", "e2e")

	b.kill()
	b.start()
	b.waitAgent("e2e")
	h.must(b.ctl("--agent", "e2e", "input", "p1", "tap", "100", "100"))
}
