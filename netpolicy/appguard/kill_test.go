package appguard_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// alive tells whether a process that waits still does.
func (d dialogue) alive(t *testing.T) bool {
	t.Helper()
	_, err := fmt.Fprintln(d.in)
	if err != nil {
		return false
	}
	_, err = d.out.ReadString('\n')
	return err == nil
}

// waiting has a process of a cgroup do steps and wait.
func waiting(t *testing.T, p phone, steps ...string) dialogue {
	t.Helper()
	d := p.begin(t, append(steps, "wait")...)
	if said := d.line(t); said != "waiting" {
		t.Fatal(said)
	}
	return d
}

// Kill ends processes by any of their uids, of any Android user, in the cgroup and below; nobody else.
func TestKill(t *testing.T) {
	g := open(t)
	p, other := makePhone(t, "p1"), makePhone(t, "p2")
	deeper := phone{dir: p.dir, below: filepath.Join(p.below, "uid_1")}
	if err := os.Mkdir(deeper.below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(deeper.below); err != nil {
			t.Error(err)
		}
	})
	var doomed, spared []dialogue
	for _, text := range []string{"setresuid %[1]d %[1]d %[1]d", "setresuid %d -1 -1", "setresuid -1 %d -1", "setresuid -1 -1 %d", "setfsuid %d"} {
		doomed = append(doomed, waiting(t, p, way(text, appDenied)))
	}
	for _, uid := range []uint32{1000000 + appDenied, 20000 + appDenied - 10000} {
		doomed = append(doomed, waiting(t, deeper, way(launches[0], uid)))
	}
	for _, uid := range []uint32{0, 1000, appAllowed, 90002, 50002} {
		spared = append(spared, waiting(t, p, way(launches[0], uid)))
	}
	spared = append(spared, waiting(t, other, way(launches[0], appDenied)))
	began := time.Now()
	killed, err := g.Kill(t.Context(), p.dir, func(app uint32) bool { return app == appDenied })
	t.Logf("%d processes in %s", killed, time.Since(began))
	if killed != len(doomed) || err != nil {
		t.Errorf("%d killed, %v; want %d", killed, err, len(doomed))
	}
	for i, d := range doomed {
		if d.alive(t) {
			t.Errorf("process %d lives", i)
		}
	}
	for i, d := range spared {
		if !d.alive(t) {
			t.Errorf("process %d, which is another's, is dead", i)
		}
	}
	if killed, err := g.Kill(t.Context(), p.dir, func(app uint32) bool { return app == appDenied }); killed != 0 || err != nil {
		t.Errorf("once more: %d, %v", killed, err)
	}
}

func TestKillOfNothing(t *testing.T) {
	g := open(t)
	if killed, err := g.Kill(t.Context(), filepath.Join(cgroupRoot(), "none"), func(uint32) bool { return true }); killed != 0 || err != nil {
		t.Errorf("a cgroup that is gone: %d, %v", killed, err)
	}
	p := makePhone(t, "p1")
	d := waiting(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// That it is over is told only when somebody has to be waited for.
	if killed, err := g.Kill(ctx, p.dir, func(uint32) bool { return false }); killed != 0 || err != nil {
		t.Errorf("nobody is doomed: %d, %v", killed, err)
	}
	if !d.alive(t) {
		t.Error("it is dead")
	}
}

// An app that makes processes as fast as it can is gone when Kill returns.
func TestKillOfForks(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	for range 3 {
		d := p.begin(t, way(launches[0], appDenied), "breed")
		if said := d.line(t); said != "breeding" {
			t.Fatal(said)
		}
	}
	killed, err := g.Kill(t.Context(), p.dir, func(app uint32) bool { return app == appDenied })
	if killed < 3 || err != nil {
		t.Errorf("%d killed, %v", killed, err)
	}
	t.Logf("%d processes", killed)
	if text, err := os.ReadFile(filepath.Join(p.below, "cgroup.procs")); err != nil || len(text) > 0 {
		t.Errorf("there are still %q, %v", text, err)
	}
}

// breed makes processes that live a moment each, without an end.
func breed([]string) error {
	fmt.Println("breeding")
	for {
		pid, err := syscall.ForkExec("/proc/self/exe", []string{"x", argGuest, "is 10002"}, nil)
		if err != nil {
			continue
		}
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	}
}

// What somebody has detached is attached again by the next Try, which tells it.
func testTry(t *testing.T, g *appguard.Guard) {
	want := g.Status()
	if err := g.Try(t.Context()); err != nil {
		t.Error(err)
	}
	if now := g.Status(); !now.Checked.After(want.Checked) || now.Shown != want.Shown || now.Mechanism != want.Mechanism {
		t.Errorf("tried, it is %+v; was %+v", now, want)
	}
	g.Detach()
	err := g.Try(t.Context())
	if err == nil {
		t.Fatal("nobody has noticed that all was detached")
	}
	t.Log(err)
	if now := g.Status(); now.Shown != want.Shown || now.Mechanism != want.Mechanism {
		t.Errorf("attached anew, it is %+v; was %+v", now, want)
	}
	if err := g.Try(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestTry(t *testing.T) { testTry(t, open(t)) }

// A canary that cannot try is an error, and no proof of anything.
func TestCanaryThatCannot(t *testing.T) {
	g := open(t)
	g.Close()
	for name, argv := range map[string][]string{
		"no such program": {"/nonexistent"}, "one that says nothing": {"true"}, "one that fails": {"false"}, "one that dies": {"sh", "-c", "kill -9 $$"},
		"one that lies": {"sh", "-c", "echo install refused; exit 3"},
	} {
		c := config()
		c.Canary = argv
		g, err := appguard.Open(t.Context(), c)
		if err == nil {
			t.Errorf("%s: %s", name, g.Status())
			g.Close()
			continue
		}
		t.Logf("%s: %v", name, err)
	}
}
