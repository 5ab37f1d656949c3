package nettest

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRootChangesItsOwnEnd has root of a phone change all it can of its own network: nothing of it opens anything, and the engine makes the
// phone's end again what it should be.
func TestRootChangesItsOwnEnd(t *testing.T) {
	s := newScene(t)
	s.serve(s.server, ":80")
	reaches := func(t *testing.T) {
		t.Helper()
		s.guest.run("ping", "-c1", "-w20", server4.String())
		s.guest.run("ping", "-c1", "-w20", server6.String())
	}
	reaches(t)
	for _, tt := range []struct {
		name, change, attempt, undo, reason string
	}{
		{"a second address", "ip address add 10.213.1.77/16 dev eth0", "ping -c2 -i0.2 -W1 -I 10.213.1.77 203.0.114.2", "ip address del 10.213.1.77/16 dev eth0", "SPOOFED_IP"},
		{"its neighbour's address", "ip address add 10.213.1.2/16 dev eth0", "ping -c2 -i0.2 -W1 -I 10.213.1.2 203.0.114.2", "ip address del 10.213.1.2/16 dev eth0", "SPOOFED_IP"},
		{"a second IPv6 address", "ip address add fd70:686f:6e65::1:77/128 dev eth0 nodad", "ping -c2 -i0.2 -W1 -I fd70:686f:6e65::1:77 2001:4860::2", "ip address del fd70:686f:6e65::1:77/128 dev eth0", "SPOOFED_IP"},
		{"another MAC address", "ip link set eth0 address 02:00:00:00:00:99", "ping -c2 -i0.2 -W1 203.0.114.2", "", "SPOOFED_MAC"},
		{"a macvlan link", "ip link add mv0 link eth0 type macvlan mode bridge", "sh -c 'ip link set mv0 up && ip address add 10.213.1.78/16 dev mv0 && ping -c2 -i0.2 -W1 -I mv0 203.0.114.2'", "ip link del mv0", "SPOOFED_MAC"},
		{"a route past the gateway", "ip route add 10.213.1.2/32 dev eth0", "ping -c2 -i0.2 -W1 10.213.1.2", "ip route del 10.213.1.2/32 dev eth0", "NEIGHBOUR"},
		{"a neighbour behind the gateway's MAC address", "ip route add 10.213.1.2/32 via 10.213.0.1", "ping -c2 -i0.2 -W1 10.213.1.2", "ip route del 10.213.1.2/32", "PROTECTED"},
		{"traffic control", "tc qdisc replace dev eth0 root pfifo", "ping -c2 -i0.2 -W1 10.213.1.2", "tc qdisc del dev eth0 root", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.changed(t, tt.change, tt.attempt, tt.reason)
			if tt.undo != "" {
				s.guest.do(order{Args: []string{"sh", "-c", tt.undo}}) // the engine may have undone it already
			}
			s.ensure(s.me)
			reaches(t)
		})
	}
	t.Run("its link taken away", s.withoutLink)
}

// changed makes a change and an attempt, which must not be answered, until something of it is dropped for the reason. The engine looks after
// phones' links when the host's network changes, and may undo the change before the attempt.
func (s *scene) changed(t *testing.T, change, attempt, reason string) {
	t.Helper()
	before := s.dropped(s.me.ID)
	for until := time.Now().Add(patience); ; {
		changed := s.guest.do(order{Args: []string{"sh", "-c", change}})
		if r := s.guest.do(order{Args: []string{"sh", "-c", attempt}}); r.Err == "" && r.Exit == 0 {
			t.Errorf("%s: answered\n%s", attempt, r.Out)
		}
		after := s.dropped(s.me.ID)
		if reason == "" || after[reason] > before[reason] {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("nothing was dropped as %s: %v; the change: %s", reason, after, changed.Out)
		}
	}
}

// withoutLink has root remove eth0, and with it the host's end: it comes back. Then root removes it until it does not at once, and takes its name.
func (s *scene) withoutLink(t *testing.T) {
	talk := s.talkOn(t, s.beside)
	s.guest.run("ip", "link", "del", "eth0")
	talk()
	for until := time.Now().Add(patience); s.guest.do(order{Args: []string{"ping", "-c1", "-w5", server4.String()}}).Exit != 0; {
		if time.Now().After(until) {
			t.Fatal("the link that the guest has removed does not come back")
		}
	}
	for until := time.Now().Add(patience); ; {
		s.guest.do(order{Args: []string{"ip", "link", "del", "eth0"}})
		r := s.guest.do(order{Args: []string{"ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"}})
		if r.Exit == 0 {
			break
		}
		if time.Now().After(until) { // the engine is never slower than the guest
			t.Fatal(r.Out)
		}
	}
	talk()
	s.guest.run("ip", "link", "del", "eth0")
	s.ensure(s.me)
	talk()
	s.guest.run("ping", "-c1", "-w20", server4.String())
	before := s.dropped(s.me.ID)["SPOOFED_IP"]
	hostile := spoofing(endOf(s.me), endOf(s.neighbour))[0]
	me := endOf(s.me)
	s.guest.send(hostile.frames...)
	s.guest.run("ping", "-c1", "-w20", server4.String())
	if n := s.dropped(s.me.ID)["SPOOFED_IP"] - before; n != uint64(len(hostile.frames)) {
		t.Errorf("%s: %d frames from %s were dropped, of %d", hostile.name, n, me.id, len(hostile.frames))
	}
}

// TestRootReachesNoPrograms has root of a phone look for the programs and maps that hold it, and for other networks.
func TestRootReachesNoPrograms(t *testing.T) {
	w := newWorld(t)
	me := phone(1)
	w.ensure(me)
	guest := w.newGuest(me.ID)
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		t.Run(name, func(t *testing.T) {
			r := guest.do(order{Call: name})
			if r.Err == "" {
				t.Error("it succeeded")
			}
			t.Log(r.Err)
		})
	}
	for _, command := range []string{"ip netns add x", "ip link set eth0 netns x", "nsenter --net=/proc/1/ns/net --user=/proc/1/ns/user true", "unshare --net true"} {
		if r := guest.do(order{Args: strings.Fields(command)}); r.Exit == 0 && r.Err == "" {
			t.Errorf("%s: succeeded: %s", command, r.Out)
		}
	}
	guest.run("ping", "-c1", "-w20", server4.String())
	if status, err := w.engine.Status(t.Context(), me.ID); err != nil || !status.Up {
		t.Errorf("the phone's network is %+v, %v", status, err)
	}
}
