package appguard_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// crowd is how many kinds of refusals a flood has: more than the table of denials holds.
const crowd = 300

// crowdOffline denies the network to app ids 10000 and on.
func crowdOffline() map[uint32]appguard.Bits {
	all := map[uint32]appguard.Bits{}
	for n := range uint32(crowd) {
		all[10000+n] = appguard.DenyNetwork
	}
	return all
}

// floodStep does a step a number of times, "TIMES WORD STEP...", and each time has to meet the word. "#" in the step is 10000 and on, crowd numbers in turn.
func floodStep(args []string) error {
	times, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	step := strings.Join(args[2:], " ")
	for n := range times {
		words := strings.Fields(strings.ReplaceAll(step, "#", strconv.Itoa(10000+n%crowd)))
		if met := word(guestSteps()[words[0]](words[1:])); met != args[1] {
			return fmt.Errorf("time %d it meets %s", n, met)
		}
	}
	return nil
}

// actingStep does a step, "UID STEP...", with a real uid, by which connections are judged, and gives it back.
func actingStep(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	const same = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), same, same); errno != 0 {
		return errno
	}
	err = guestSteps()[args[1]](args[2:])
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 0, same, same); errno != 0 {
		return errno
	}
	return err
}

// tally is what was drained of a slot.
type tally struct{ elements, listed, unlisted uint64 }

func (a *tally) drain(t *testing.T, g *appguard.Guard, slot uint32) {
	for _, d := range drain(t, g, slot) {
		if d.Unlisted {
			a.unlisted += d.Count
			continue
		}
		a.elements++
		a.listed += d.Count
	}
}

// eventCount counts events by slot in a goroutine, until that of the last slot comes.
type eventCount struct {
	bySlot map[uint32]uint64
	over   chan error
}

func countEvents(t *testing.T, g *appguard.Guard, last uint32) *eventCount {
	c := &eventCount{bySlot: map[uint32]uint64{}, over: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	all.Go(func() {
		for e, err := range g.Events(ctx) {
			if err != nil || e.Slot == last {
				c.over <- err
				return
			}
			c.bySlot[e.Slot]++
		}
		c.over <- context.Canceled
	})
	return c
}

// speedPhones is how many phones are flooded at once, by speedProcesses processes each. Their slots begin with speedSlot, which nobody had before: what is
// counted is theirs alone.
const speedPhones, speedProcesses, speedSlot = 4, 2, 10

// testDenialsAtSpeed has processes of several phones be refused without a pause, by a step of more kinds than the table of denials holds, while events are read
// and denials are drained. Of each phone all refusals are told, those that found no room too; and of each element of the table there was an event, or it is counted
// as lost.
func testDenialsAtSpeed(t *testing.T, g *appguard.Guard, kind appguard.Kind, times int, rules appguard.Phone, step func(phone int) string) {
	last := makePhone(t, "last")
	last.set(t, g, appguard.Phone{Slot: speedSlot + speedPhones, Apps: apps})
	events := countEvents(t, g, speedSlot+speedPhones)
	var phones []phone
	tallies := make([]tally, speedPhones)
	for n := range speedPhones {
		p := makePhone(t, fmt.Sprint("p", n))
		rules.Slot = uint32(speedSlot + n)
		p.set(t, g, rules)
		phones = append(phones, p)
		// Before anything is drained: some find no room, however fast the drains are.
		flood(t, p, crowd, step(n))
	}
	began := time.Now()
	var floods, drains sync.WaitGroup
	var over atomic.Bool
	for n, p := range phones {
		for range speedProcesses {
			floods.Go(func() { flood(t, p, times, step(n)) })
		}
		drains.Go(func() {
			for !over.Load() {
				tallies[n].drain(t, g, uint32(speedSlot+n))
			}
		})
	}
	floods.Wait()
	took := time.Since(began)
	over.Store(true)
	drains.Wait()
	events.end(t, g, last)
	want := uint64(crowd + speedProcesses*times)
	for n := range speedPhones {
		now, slot := &tallies[n], uint32(speedSlot+n)
		now.drain(t, g, slot)
		c, err := g.Counters(slot)
		if err != nil {
			t.Fatal(err)
		}
		if now.listed+now.unlisted != want || c.Denied[kind] != want {
			t.Errorf("phone %d: %d refusals are listed and %d not, %d are counted; want %d", n, now.listed, now.unlisted, c.Denied[kind], want)
		}
		if now.unlisted == 0 || now.unlisted != c.Unlisted[kind] {
			t.Errorf("phone %d: %d refusals were drained that found no room, %d are counted", n, now.unlisted, c.Unlisted[kind])
		}
		if told := events.bySlot[slot]; told+c.Lost != now.elements {
			t.Errorf("phone %d: %d events came and %d were lost; want %d", n, told, c.Lost, now.elements)
		}
		t.Logf("phone %d: %d listed in %d elements, %d not, %d events, %d lost", n, now.listed, now.elements, now.unlisted, events.bySlot[slot], c.Lost)
	}
	t.Logf("%d refusals in %v, %.0f per second", speedPhones*speedProcesses*times, took, float64(speedPhones*speedProcesses*times)/took.Seconds())
}

// flood has a process be refused a number of times.
func flood(t *testing.T, p phone, times int, step string) {
	t.Helper()
	if met := p.guest(t, fmt.Sprintf("flood %d EPERM %s", times, step)); len(met) != 1 || met[0] != "done" {
		t.Errorf("a flood of %q meets %v", step, met)
	}
}

// end waits until all events have come, which is when one of a phone's comes that is refused now.
func (c *eventCount) end(t *testing.T, g *appguard.Guard, last phone) {
	t.Helper()
	for lost := uint64(0); ; lost++ {
		flood(t, last, 1, fmt.Sprintf("acting %d connect udp 4 9", appOffline))
		now, err := g.Counters(speedSlot + speedPhones)
		if err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
		if now.Lost == lost {
			break
		}
		drain(t, g, speedSlot+speedPhones) // its event found no room: the next one is told anew
	}
	if err := <-c.over; err != nil {
		t.Fatal(err)
	}
}

// Not one refusal is lost at the highest rate that this computer has.
func TestDenialsAtSpeed(t *testing.T) {
	times := 20000
	if few() {
		times = 1000
	}
	testDenialsAtSpeed(t, open(t), appguard.KindNetwork, times, appguard.Phone{Apps: crowdOffline()}, func(int) string { return "acting # connect udp 4 9" })
}

// testInstallsAtSpeed is the same for installations.
func testInstallsAtSpeed(t *testing.T, g *appguard.Guard) {
	places := make([]string, speedPhones)
	for phone := range places {
		from, to := stage(t, scratch(t), 1, "app/~~r/com.evil.x#-1")
		places[phone] = from + " " + to
	}
	testDenialsAtSpeed(t, g, appguard.KindInstall, 1500, appguard.Phone{Names: denyNames}, func(phone int) string { return "rename " + places[phone] })
}
