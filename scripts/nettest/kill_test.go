package nettest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/netns"
	"github.com/phonehost/phonehost/netpolicy/policy"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// lifeEnv has a life as JSON.
const lifeEnv = "PHONEHOST_NETTEST_LIFE"

// life is what an engine in a process of its own keeps up.
type life struct {
	Config netpolicy.Config
	Phones []netpolicy.Phone
}

// engineChild is an engine that makes phones' networks what they are already and puts ever new policies in force that say the same, until it
// is killed. It prints a line when it begins and after each round.
func engineChild() error {
	var l life
	if err := json.Unmarshal([]byte(os.Getenv(lifeEnv)), &l); err != nil {
		return err
	}
	l.Config.NetNS = netns.New(namespaces)
	ctx := context.Background()
	fmt.Println("begins")
	engine, err := netpolicy.Open(ctx, l.Config)
	if err != nil {
		return err
	}
	engine.Expect(l.Phones)
	for round := 0; ; round++ {
		// A rule for an address that nobody has makes another object of the same policy.
		text := fmt.Sprintf("%sdeny egress any 192.0.2.%d/32\n", ports, round%256)
		p, err := policy.Parse([]byte(text))
		if err != nil {
			return err
		}
		if err := engine.SetPolicy(ctx, "ports", p); err != nil {
			return err
		}
		for _, p := range l.Phones {
			if err := engine.Ensure(ctx, p); err != nil {
				return err
			}
		}
		fmt.Println("round", round)
	}
}

// oneLife runs an engine and kills it: some at once, some after it has got through a few rounds. It returns how many these were.
func (s *scene) oneLife(t *testing.T) int {
	t.Helper()
	text, err := json.Marshal(life{s.cfg, []netpolicy.Phone{s.neighbour, s.me}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=engine", lifeEnv+"="+string(text))
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, rounds := bufio.NewScanner(out), -1
	for until := rand.IntN(4); rounds < until && lines.Scan(); {
		rounds++
	}
	if rounds < 0 {
		t.Errorf("the engine ended by itself: %s", complaints.String())
	}
	time.AfterFunc(time.Duration(rand.IntN(30_000))*time.Microsecond, func() { _ = cmd.Process.Kill() }) // the end of the process is waited for below
	for lines.Scan() {
		rounds++
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		t.Errorf("the engine ended by itself: %v: %s", err, complaints.String())
	}
	return max(rounds, 0)
}

// TestNothingPassesWhileTheEngineIsKilled makes all attacks over and over while engines begin, go on with what the last one left, and are
// killed. What is allowed goes on all the time.
func TestNothingPassesWhileTheEngineIsKilled(t *testing.T) {
	s := newScene(t)
	if err := s.engine.Close(); err != nil {
		t.Fatal(err)
	}
	talk := s.talk(t)
	var all attack
	for _, a := range attacks(endOf(s.me), endOf(s.neighbour)) {
		all.frames = append(all.frames, a.frames...)
	}
	const lives = 25
	stop := s.guest.keepSending(all.frames, 1)
	rounds := 0
	for range lives {
		rounds += s.oneLife(t)
		talk()
	}
	sent := stop()
	s.send(nil)
	s.unseen(t, all.frames)
	s.open()
	for _, p := range []netpolicy.Phone{s.neighbour, s.me} {
		s.policy("ports", ports)
		s.ensure(p)
	}
	talk()
	t.Logf("%d frames were sent, none passed, while %d engines were killed in %d rounds", sent, lives, rounds)
	if dropped := s.dropped(s.me.ID); dropped["SPOOFED_IP"] == 0 || dropped["NO_PHONE"] > 0 || dropped["NO_POLICY"] > 0 {
		t.Errorf("dropped were %v", dropped)
	}
}

// talk begins a connection from the neighbour to the server and returns what sends a line there and awaits its echo.
func (s *scene) talk(t *testing.T) func() {
	t.Helper()
	s.serve(s.server, ":80")
	return s.talkOn(t, s.beside)
}

// talkOn is talk with a server that is there already.
func (s *scene) talkOn(t *testing.T, from netlab.Namespace) func() {
	t.Helper()
	conn := s.dial(t, from, net.JoinHostPort(server4.String(), "80"))
	in := bufio.NewReader(conn)
	return func() {
		t.Helper()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, "still here\n"); err != nil {
			t.Fatalf("the neighbour's connection: %v", err)
		}
		if line, err := in.ReadString('\n'); err != nil || line != "still here\n" {
			t.Fatalf("the neighbour's connection: %q, %v", line, err)
		}
	}
}
