package appguard_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/appguard"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// agentMain is an agent whose programs are a version of its own. It takes over what there is, and changes the rules of the phone that it is told of, and of
// others that come and go, until it is killed. It prints a line when it is open and for each round. Its arguments: version, root of cgroups, id of the phone's
// cgroup, and whether launches are to be refused alone.
func agentMain(args []string) int {
	if err := agent(args[0], args[1], args[2], args[3] == "true"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func agent(version, root, id string, noKill bool) error {
	c := config()
	c.CgroupRoot, c.NoKill = root, noKill
	fmt.Println("begun")
	g, err := appguard.OpenAs(context.Background(), c, version)
	if err != nil {
		return err
	}
	fmt.Println("open")
	cgroup, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return err
	}
	for round := rand.IntN(10); ; round++ {
		slot := uint32(1 + round%4)
		if err := errors.Join(
			g.SetPhone(cgroup, switching[round%2]), g.SetPhone(1000+uint64(slot), appguard.Phone{Slot: slot, Names: denyNames[:slot]}), g.Deny(slot, appDenied, 1),
			g.DrainDenials(slot, func([]appguard.Denial) error { return nil }), g.SetPhone(2000+uint64(slot), appguard.Phone{Slot: slot, Names: denyNames[:slot+1]}),
			g.RemovePhone(2000+uint64(slot)),
		); err != nil {
			return err
		}
		fmt.Println(round)
	}
}

// kill runs an agent and kills it a moment after it has said something.
func kill(t *testing.T, version string, p phone, noKill bool, said string, after time.Duration) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", argAgent, version, cgroupRoot(), strconv.FormatUint(p.id, 10), strconv.FormatBool(noKill))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != said {
	}
	kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_, _ = io.Copy(io.Discard, out)
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the agent ended by itself: %v", err)
	}
}

// testKilled kills agents, each of another version, while they open and while rules change. What is refused by the old and the new rules stays refused
// throughout, what is allowed by both stays allowed, and what is left each time is something that the next takes over, and can take away to the last.
func testKilled(t *testing.T, tier appguard.Tier, kills int) {
	testenv.Root(t)
	p := makePhone(t, "p1")
	refuses := tier == appguard.TierA || tier == appguard.TierB
	change := func(c *appguard.Config) { c.NoKill = refuses }
	g := reopen(t, change)
	if now := g.Status(); now.Tier != tier {
		t.Fatalf("opened again it is %s, was tier %s: %q", now, tier, now.Why)
	}
	p.set(t, g, switching[0])
	g.Close()
	ends := []func(){p.watch(t)}
	if refuses {
		ends = append(ends, p.watchLaunches(t), p.watchInstalls(t))
	}
	for i := range kills {
		said := []string{"begun", "open"}[i%2]
		kill(t, fmt.Sprintf("v%d", i), p, refuses, said, time.Duration(rand.Int64N(int64(200*time.Millisecond))))
		if i%3 == 2 { // else the next agent takes over what is there
			g := reopen(t, change)
			if now := g.Status().Tier; now != tier {
				t.Errorf("after a kill it is tier %s, was %s", now, tier)
			}
			whole(t, g, p)
			g.Close()
		}
	}
	for _, end := range ends {
		end()
	}
	g = reopen(t)
	if now := g.Status(); now.Tier != tier {
		t.Errorf("in the end it is %s: %q", now, now.Why)
	}
	for cgroup := range g.Phones() {
		if err := g.RemovePhone(cgroup); err != nil {
			t.Error(err)
		}
	}
	nothing(t, g)
	pins(t, g)
}

// whole fails the test if anything is there that is no phone's, or is missing.
func whole(t *testing.T, g *appguard.Guard, p phone) {
	t.Helper()
	phones := g.Phones()
	if slot, found := phones[p.id]; !found || slot != 0 {
		t.Errorf("the phone is in slot %d, %v", slot, found)
	}
	have, err := g.Elements()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"phones", "uids", "denials"} {
		if have[name] != len(phones) {
			t.Errorf("%d phones, and elements %v", len(phones), have)
		}
	}
	if have["names"] > len(phones) || have["names"] < 1 || have["states"] > len(phones) || have["draining"] > len(phones) {
		t.Errorf("%d phones, and elements %v", len(phones), have)
	}
}

// pins fails the test if those of other versions are there.
func pins(t *testing.T, g *appguard.Guard) {
	t.Helper()
	for _, sub := range []string{"links", "programs"} {
		entries, err := os.ReadDir(dir + "/v1/" + sub)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != g.Version() {
				t.Errorf("%s of version %s stay", sub, e.Name())
			}
		}
	}
}

// watchStep is watch with one step.
func (p phone) watchStep(t *testing.T, steps ...string) (end func()) {
	t.Helper()
	d := p.begin(t, steps...)
	if met := d.line(t); met != "done" {
		t.Fatal(met)
	}
	return func() {
		t.Helper()
		if met := d.ask(t); met != "done" {
			t.Errorf("while agents are killed: %s", met)
		}
	}
}

// watchLaunches has a process try to become an app that both lists forbid to run.
func (p phone) watchLaunches(t *testing.T) (end func()) {
	return p.watchStep(t, fmt.Sprintf("often EPERM setresuid -1 %d -1", appDenied))
}

// watchInstalls has one try to make directories of a package that both lists forbid, and of one that both allow.
func (p phone) watchInstalls(t *testing.T) (end func()) {
	from, to := stage(t, scratch(t), 1, "app/~~r/com.bad.app-1")
	return p.watchStep(t, fmt.Sprintf("often EPERM rename %s %s", from, to))
}

func TestKilled(t *testing.T) {
	g := open(t)
	tier := g.Status().Tier
	g.Close()
	kills := 24
	if few() {
		kills = 6
	}
	testKilled(t, tier, kills)
}

// testBypass has threads of a phone try to become a denied app, which is refused and not killed, while programs are replaced and agents are killed. Not
// one is let.
func testBypass(t *testing.T, upgrades, kills int, least uint64) {
	p := makePhone(t, "p1")
	change := func(c *appguard.Config) { c.NoKill = true }
	g := reopen(t, change)
	p.set(t, g, switching[0])
	g.Close()
	storm := p.begin(t, fmt.Sprintf("storm %d", appDenied))
	if met := storm.line(t); met != "done" {
		t.Fatal(met)
	}
	for i := range upgrades {
		c := config()
		c.NoKill = true
		g, err := appguard.OpenAs(t.Context(), c, fmt.Sprintf("u%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if s := g.Status(); s.Tier != appguard.TierA {
			t.Errorf("upgrade %d: it is %s: %q", i, s, s.Why)
		}
		g.Close()
		if i*kills/upgrades != (i+1)*kills/upgrades {
			kill(t, fmt.Sprintf("k%d", i), p, true, []string{"begun", "open"}[i%2], time.Duration(rand.Int64N(int64(500*time.Millisecond))))
		}
	}
	var tries, let uint64
	if _, err := fmt.Fprintln(storm.in); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(storm.line(t), &tries, &let); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d tries, %d upgrades, %d agents killed", tries, upgrades, kills)
	if let > 0 || tries < least {
		t.Errorf("%d of %d tries were let; want none of %d or more", let, tries, least)
	}
}
