package datapath_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// TestTraffic: nothing passes before SetPhone, and what a policy denies never does.
func TestTraffic(t *testing.T) {
	mechanisms(t, func(t *testing.T, c datapath.Config) {
		s := newScene(t, c)
		opened, denied := s.echo(t, openPort), s.echo(t, deniedPort)
		s.serveTCP(t, openPort)
		if _, err := s.dial(t, "tcp4", openPort); err == nil {
			t.Error("a link that is no phone's lets a connection pass")
		}
		s.admit(t)
		for _, network := range []string{"tcp4", "udp4"} {
			conn, err := s.dial(t, network, openPort)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pingPong(limit(t, 50*time.Millisecond), conn); err != nil {
				t.Errorf("%s: %v", network, err)
			}
		}
		s.sendDenied(t, 10, deniedPort)
		if opened.Load() == 0 || denied.Load() != 0 {
			t.Errorf("the server got %d packets on the port that is open, and %d on the one that is denied", opened.Load(), denied.Load())
		}
		if err := s.UnloadPolicy(1); err != nil {
			t.Fatal(err)
		}
		before := opened.Load()
		s.sendDenied(t, 10, openPort)
		if n := opened.Load(); n != before {
			t.Errorf("without a policy %d packets passed", n-before)
		}
		counters, err := s.Counters(1)
		if err != nil || counters.Dropped[datapath.ReasonRule] != 10 || counters.Packets[policy.Egress] == 0 || counters.Packets[policy.Ingress] == 0 {
			t.Errorf("counters are %+v, %v; want 10 packets dropped by a rule", counters, err)
		}
		byReason := map[string]uint64{}
		err = s.DrainDenials(1, func(list []datapath.Denial) error {
			for _, d := range list {
				byReason[d.Reason.String()] += d.Count
			}
			return nil
		})
		if err != nil || byReason["RULE"] != 10 || byReason["NO_POLICY"] < 10 {
			// A connection that the test left may end meanwhile, and say so again and again.
			t.Errorf("denials are %v, %v; want 10 by a rule, and at least 10 without a policy", byReason, err)
		}
	})
}

// TestReplacements replaces programs and policies under ping-pongs that end at one lost packet, while the phone sends without pause what
// both policies deny.
func TestReplacements(t *testing.T) {
	mechanisms(t, func(t *testing.T, c datapath.Config) {
		s := sceneWith(t, c, cold) // whose second version goes with it
		s.admit(t)
		alternate, err := s.SecondVersion()
		if err != nil {
			t.Fatal(err)
		}
		replacements := 300
		if few() {
			replacements = 30
		}
		end := s.talk(t)
		for i := range replacements {
			alternate()
			if err := errors.Join(s.Attach("p1", s.link.Attrs().Index), s.load(uint64(i+2))); err != nil {
				t.Fatal(err)
			}
		}
		end(replacements)
	})
}

// TestDrainLosesNothing: denials that are drained while packets are dropped, and what the table had no room for, are together exactly the
// packets that were dropped.
func TestDrainLosesNothing(t *testing.T) {
	s := newScene(t, datapath.Config{})
	s.admit(t)
	const packets = 30_000
	ctx, stop := context.WithCancel(t.Context())
	var sender sync.WaitGroup
	sender.Go(func() {
		defer stop()
		if err := s.scatter(udp(t, s.phone, 0), packets); err != nil {
			t.Error(err)
		}
	})
	var reported, others uint64
	drain := func() {
		err := s.DrainDenials(1, func(list []datapath.Denial) error {
			for _, d := range list {
				if d.Reason == datapath.ReasonOther {
					others += d.Count
				} else if d.Reason == datapath.ReasonRule {
					reported += d.Count
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	drains := 0
	for ; ctx.Err() == nil; drains++ {
		drain()
	}
	sender.Wait()
	drain()
	counters, err := s.Counters(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d drains; %d packets listed, %d not", drains, reported, others)
	if dropped := counters.Dropped[datapath.ReasonRule]; dropped != packets || reported+others != dropped || others == 0 || others != counters.Unlisted {
		t.Errorf("%d packets were dropped of %d; %d listed and %d (%d) unlisted ones were reported", dropped, packets, reported, others, counters.Unlisted)
	}
}

// TestEvents: what happened before and after the reader came is told, in order.
func TestEvents(t *testing.T) {
	s := sceneWith(t, datapath.Config{Sample: 1}, cold) // else there are events of other tests
	s.admit(t)
	s.serveTCP(t, openPort)
	s.sendDenied(t, 3, deniedPort)
	conn, err := s.dial(t, "tcp4", openPort)
	if err != nil {
		t.Fatal(err)
	}
	ctx := limit(t, 20*time.Second)
	var kinds []datapath.EventKind
	for e, err := range s.Events(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Slot != 1 || time.Since(e.Time) > time.Minute {
			t.Errorf("the event %+v", e)
		}
		switch e.Kind {
		case datapath.EventDenial:
			if e.Denial.Port != deniedPort || e.Denial.Reason != datapath.ReasonRule || e.Denial.Rule != 2 || e.Denial.Peer.String() != serverAddress {
				t.Errorf("the denial of an event is %+v", e.Denial)
			}
		case datapath.EventOpened, datapath.EventClosed:
			if e.Flow.Peer.String() != fmt.Sprintf("%s:%d", serverAddress, openPort) || e.Flow.Protocol != policy.TCP || e.Flow.Rule != datapath.RuleDefault {
				t.Errorf("the flow of an event is %+v", e.Flow)
			}
		}
		kinds = append(kinds, e.Kind)
		if e.Kind == datapath.EventOpened {
			for _, err := range s.Events(ctx) {
				if err == nil {
					t.Error("there are two readers")
				}
			}
			conn.Close()
		}
		if e.Kind == datapath.EventClosed {
			break
		}
	}
	if want := []datapath.EventKind{datapath.EventDenial, datapath.EventOpened, datapath.EventClosed}; fmt.Sprint(kinds) != fmt.Sprint(want) {
		t.Errorf("events are of kinds %v; want %v", kinds, want)
	}
	for range s.Events(limit(t, 0)) {
		t.Error("an event after the context has ended")
	}
}

// TestJudge asks for verdicts, which leave no trace.
func TestJudge(t *testing.T) {
	s := newScene(t, datapath.Config{})
	s.admit(t)
	for _, test := range []struct {
		to     string
		port   uint16
		reason string
		class  string
		rule   uint32
	}{
		{serverAddress, openPort, "NONE", "", datapath.RuleDefault},
		{serverAddress, deniedPort, "RULE", "", 2},
		{"203.0.113.9", 1, "RULE", "", 0},
		{"10.213.0.3", openPort, "PROTECTED", "PHONE", datapath.RuleDefault},
		{"10.213.0.1", openPort, "PROTECTED", "HOST", datapath.RuleDefault},
	} {
		v, err := s.Judge(s.link.Attrs().Index, policy.Egress, datagram(s.set, test.to, test.port))
		if err != nil || v.Reason.String() != test.reason || v.Class.String() != test.class || v.Rule != test.rule || v.Allowed() != (test.reason == "NONE") {
			t.Errorf("to %s port %d: %+v (%s %s), %v; want %s %s rule %d", test.to, test.port, v, v.Reason, v.Class, err, test.reason, test.class, test.rule)
		}
	}
	if flows, err := s.Flows(1); err != nil || len(flows) != 0 {
		t.Errorf("judging began the flows %v, %v", flows, err)
	}
	if _, err := s.Judge(1<<20, policy.Egress, datagram(s.set, serverAddress, 1)); err == nil {
		t.Error("a link that is not there was judged")
	}
}

// datagram is a UDP packet of a phone's.
func datagram(p datapath.Phone, to string, port uint16) []byte {
	packet := append(append([]byte{}, p.GatewayMAC...), p.MAC...)
	packet = append(packet, 8, 0, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0)
	packet = append(packet, p.IPv4.AsSlice()...)
	packet = append(packet, netip.MustParseAddr(to).AsSlice()...)
	packet = binary.BigEndian.AppendUint16(packet, 40000)
	packet = binary.BigEndian.AppendUint16(packet, port)
	return append(packet, 0, 8, 0, 0)
}
