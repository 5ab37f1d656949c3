package datapath_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phonehost/phonehost/netpolicy/datapath"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// child runs a function of children in another process of this program, in the same namespaces. Its input ends with the test.
func child(t *testing.T, name string, env ...string) (cmd *exec.Cmd, out io.Reader) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(append(os.Environ(), childEnv+"="+name), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// loopLinks is how many links loopChild works on: "ph-0"...
const loopLinks = 4

// loopChild sets phones up and takes them down, with all that belongs to them, until it is killed. It prints a line for each round.
func loopChild() error {
	var links []int
	for i := range loopLinks {
		link, err := netlink.LinkByName("ph-" + strconv.Itoa(i))
		if err != nil {
			return err
		}
		links = append(links, link.Attrs().Index)
	}
	d, err := datapath.Open(datapath.Config{Dir: dir, Filters: os.Getenv("FILTERS") != ""})
	if err != nil {
		return err
	}
	fmt.Println("open")
	for round := rand.IntN(loopLinks); ; round++ {
		slot := uint32(round % loopLinks)
		if err := oneLife(d, "p"+strconv.Itoa(int(slot)), slot, links[slot], uint64(round)); err != nil {
			return err
		}
		fmt.Println(round)
	}
}

// oneLife is what an agent does for a phone, from its first to its last moment.
func oneLife(d *datapath.Datapath, id string, slot uint32, link int, generation uint64) error {
	o, err := policy.Compile(policy.Policy{}, generation)
	if err != nil {
		return err
	}
	p := phoneIn(slot)
	p.Policy = slot
	return errors.Join(
		d.LoadPolicy(slot, o), d.Attach(id, link), d.SetForwards(slot, []datapath.Forward{{Protocol: policy.TCP, Port: 5555}}), d.SetPhone(link, p),
		d.Track(slot, 1, 1e12), d.Deny(slot, 1, 1), d.DrainDenials(slot, func([]datapath.Denial) error { return nil }), d.SetPhone(link, p),
		d.RemovePhone(link), d.UnloadPolicy(slot), d.Detach(id),
	)
}

// TestKilled kills a process in the middle of what it does, many times, at moments spread over all of it. What it leaves is each time
// something that the next process takes over without an error, and can take away to the last.
func TestKilled(t *testing.T) {
	mechanisms(t, func(t *testing.T, c datapath.Config) {
		open(t, c).Close()
		links := map[int]bool{}
		for i := range loopLinks {
			links[device(t, "ph-"+strconv.Itoa(i)).Index] = true
		}
		kills := 25
		if few() {
			kills = 5
		}
		for i := range kills {
			kill(t, "loop", c, time.Duration(rand.Int64N(int64(150*time.Millisecond))))
			d := reopen(t, c)
			whole(t, d, links)
			if i%2 == 0 { // else the next process takes over what is there
				takeAway(t, d, links)
			}
			d.Close()
		}
		d := reopen(t, c)
		takeAway(t, d, links)
		for slot := range uint32(loopLinks) {
			for link := range links {
				if err := oneLife(d, "last", slot, link, 1); err != nil {
					t.Errorf("a phone's life after all those: %v", err)
				}
			}
		}
		nothing(t, d)
	})
}

// kill runs a child and kills it a moment after it has said that it is open.
func kill(t *testing.T, name string, c datapath.Config, after time.Duration, env ...string) {
	t.Helper()
	if c.Filters {
		env = append(env, "FILTERS=1")
	}
	cmd, out := child(t, name, env...)
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "open\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_, _ = io.Copy(io.Discard, lines)
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended by itself: %v", err)
	}
}

// replaceChild is an agent of another version, which takes the phone over that is there and puts programs and policies in force until it
// is killed.
func replaceChild() error {
	d, err := datapath.OpenAs(datapath.Config{Dir: dir, Filters: os.Getenv("FILTERS") != ""}, os.Getenv("VERSION"))
	if err != nil {
		return err
	}
	phones, err := d.Phones()
	if err != nil {
		return err
	}
	fmt.Println("open")
	for generation := uint64(time.Now().UnixNano()); ; generation++ {
		o, err := mostPorts(generation)
		if err != nil {
			return err
		}
		for link, p := range phones {
			if err := errors.Join(d.Attach("p1", link), d.SetPhone(link, p), d.LoadPolicy(p.Policy, o)); err != nil {
				return err
			}
		}
		fmt.Println(generation)
	}
}

// TestKilledUnderTraffic kills agents, each of another version, in the middle of replacing programs and policies: no packet is lost, none
// comes through that is denied.
func TestKilledUnderTraffic(t *testing.T) {
	mechanisms(t, func(t *testing.T, c datapath.Config) {
		s := sceneWith(t, c, cold)
		s.admit(t)
		end := s.talk(t)
		s.Close()
		kills := 10
		if few() {
			kills = 2
		}
		for i := range kills {
			kill(t, "replace", c, time.Duration(rand.Int64N(int64(100*time.Millisecond))), fmt.Sprintf("VERSION=v%d", i))
		}
		s.Datapath = reopen(t, c)
		attachedAre(t, s.Datapath, map[string]int{"p1": s.link.Attrs().Index})
		end(kills)
	})
}

// whole fails the test if anything half done could pass packets, or is not what a phone has.
func whole(t *testing.T, d *datapath.Datapath, links map[int]bool) {
	t.Helper()
	phones, err := d.Phones()
	if err != nil {
		t.Fatal(err)
	}
	have, err := d.Elements()
	if err != nil {
		t.Fatal(err)
	}
	live := 0 // those that RemovePhone has begun with are cut
	for _, p := range phones {
		if !p.Cut {
			live++
		}
	}
	for name, most := range map[string]int{"phones": 1, "flows": 1, "denials": 1, "clients": 2, "forwards": 1} {
		if n := have[name]; n > most*len(phones) || n < most*live && name != "forwards" {
			t.Errorf("after a kill and Open there are %d phones, %d of them not cut, and %v elements in maps", len(phones), live, have)
		}
	}
	for ifindex, p := range phones {
		if !links[ifindex] || p.Policy != p.Slot || p.MAC.String() != phoneIn(p.Slot).MAC.String() || p.IPv4 != phoneIn(p.Slot).IPv4 {
			t.Errorf("the phone on link %d is %+v", ifindex, p)
		}
	}
	attached, err := d.Attached()
	if err != nil {
		t.Fatal(err)
	}
	for id, ifindex := range attached {
		if !strings.HasPrefix(id, "p") || ifindex != 0 && !links[ifindex] { // 0: Detach had taken the program off, not its pin
			t.Errorf("%s is attached to link %d", id, ifindex)
		}
	}
}

// takeAway removes all that there is, as an agent does that has no phones.
func takeAway(t *testing.T, d *datapath.Datapath, links map[int]bool) {
	t.Helper()
	for link := range links {
		if err := d.RemovePhone(link); err != nil {
			t.Error(err)
		}
	}
	attached, err := d.Attached()
	if err != nil {
		t.Fatal(err)
	}
	for id := range attached {
		if err := d.Detach(id); err != nil {
			t.Error(err)
		}
	}
	policies, err := d.LoadedPolicies()
	if err != nil {
		t.Fatal(err)
	}
	for slot := range policies {
		if err := d.UnloadPolicy(slot); err != nil {
			t.Error(err)
		}
	}
	for slot := range uint32(loopLinks) {
		if err := d.SetForwards(slot, nil); err != nil {
			t.Error(err)
		}
	}
	nothing(t, d)
}
