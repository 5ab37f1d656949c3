package nettest

import (
	"bytes"
	"fmt"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/wire"
	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// scene is an attacker beside a neighbour, and watches on all that is beyond the attacker's link.
type scene struct {
	*world
	me, neighbour netpolicy.Phone
	beside        netlab.Namespace
	guest         *guest
	// passed has what the programs at the attacker's link let through, before the host's own stack; server and other what came there.
	passed, atServer, atNeighbour *watch
	fences                        uint16
}

func newScene(t *testing.T) *scene {
	w := newWorld(t)
	w.policy("ports", ports)
	s := &scene{world: w, me: phone(1), neighbour: phone(2)}
	s.me.Policy = "ports"
	s.beside = w.ensure(s.neighbour)
	w.ensure(s.me)
	s.guest = w.newGuest(s.me.ID)
	s.passed = w.copyPassed(s.me.ID)
	s.atServer = watchLink(t, w.server, "eth0")
	s.atNeighbour = watchLink(t, s.beside, "eth0")
	return s
}

// copyPassed has the kernel copy all that comes from a phone, behind the programs, to a link that is watched. Programs of TCX and clsact are
// asked before nftables' hook for ingress (net/core/dev.c).
func (w *world) copyPassed(id string) *watch {
	w.t.Helper()
	testenv.Tool(w.t, "nft")
	sink := netlab.Make(w.t, "sink")
	sink.Wire(w.t, nil, nil)
	rules := fmt.Sprintf(`table netdev passed { chain passed { type filter hook ingress device %q priority 0; policy accept; dup to "up-sink"; }; }`, wire.LinkName(id))
	netlab.Host().Run(w.t, "nft", rules)
	w.t.Cleanup(func() {
		if out, err := exec.Command("nft", "delete table netdev passed").CombinedOutput(); err != nil {
			w.t.Errorf("%v: %s", err, out)
		}
	})
	return watchLink(w.t, sink, "eth0")
}

// send sends frames, and then one that passes: when that has come to the server, all before it have been dealt with.
func (s *scene) send(frames [][]byte) {
	s.t.Helper()
	s.fences++
	content := fmt.Appendf(nil, "<fence %d>", s.fences)
	me := endOf(s.me)
	f := me.to(server4, 30000, 9)
	s.guest.send(append(frames, me.frame(f.packet(unix.IPPROTO_UDP, f.udp(content))))...)
	for _, w := range []*watch{s.passed, s.atServer} {
		w.await(s.t, string(content), func(frame []byte) bool { return bytes.Contains(frame, content) })
	}
}

// leaked returns a frame that should not be on a link, or nil. A frame without room for the mark is known by its content.
func leaked(w *watch, sent [][]byte) []byte {
	return w.find(func(frame []byte) bool {
		if bytes.Contains(frame, mark) {
			return true
		}
		for _, f := range sent {
			if len(f) > 20 && bytes.HasPrefix(frame[14:], f[14:]) {
				return true
			}
		}
		return false
	})
}

func TestNothingPassesThatMustNot(t *testing.T) {
	s := newScene(t)
	for _, a := range attacks(endOf(s.me), endOf(s.neighbour)) {
		t.Run(a.name, func(t *testing.T) { s.attack(t, a) })
	}
}

// attack makes an attack and tells what was seen of it.
func (s *scene) attack(t *testing.T, a attack) {
	before := s.dropped(s.me.ID)
	s.send(append(a.prepares, a.frames...))
	s.unseen(t, a.frames)
	after := s.dropped(s.me.ID)
	if n := after[a.reason] - before[a.reason]; n != uint64(len(a.frames)) && !(quiet(a.reason) && n > uint64(len(a.frames))) {
		t.Errorf("%d frames were dropped as %s, of %d", n, a.reason, len(a.frames))
	}
	for reason, n := range after {
		if n != before[reason] && reason != a.reason && !quiet(reason) {
			t.Errorf("%d frames were dropped as %s", n-before[reason], reason)
		}
	}
}

// quiet tells of a reason that a phone's own kernel gives all the time.
func quiet(reason string) bool { return reason == "NEIGHBOUR" || reason == "MULTICAST" }

// unseen fails the test if any of the frames, or one with the mark, was seen beyond the attacker's link; what was seen is forgotten.
func (s *scene) unseen(t *testing.T, frames [][]byte) {
	t.Helper()
	for _, w := range []*watch{s.passed, s.atServer, s.atNeighbour} {
		if frame := leaked(w, frames); frame != nil {
			t.Errorf("on %s was seen % x", w.name, frame)
		}
		w.forget()
	}
}
