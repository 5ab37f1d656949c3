package wire

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/netpolicy/netns"
)

// victimEnv has the directory of namespaces of a process that is to be killed.
const victimEnv = "PHONEHOST_TEST_WIRE_VICTIM"

// victim makes and removes one phone's network until it is killed.
func victim() int {
	w, err := New(Config{NetNS: netns.New(os.Getenv(victimEnv)), Pool4: pool4, Pool6: pool6})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	p, ctx := phone("p1", 0), context.Background()
	for {
		if _, err := w.Ensure(ctx, p); err != nil {
			fmt.Println(err)
			return 1
		}
		if err := errors.Join(w.Up(ctx, p), w.Remove(ctx, p.ID)); err != nil {
			fmt.Println(err)
			return 1
		}
	}
}

// TestEveryStepMayBeTheLast stops before each change in turn, as a kill there would, and lets the next call finish it.
func TestEveryStepMayBeTheLast(t *testing.T) {
	l := newLab(t)
	p := phone("p1", 0)
	l.ensure(t, p)
	want := l.settled(t, p)
	l.removeAll(t, p.ID)
	killed := errors.New("killed")
	steps := 0
	for finished := false; !finished; steps++ {
		for _, next := range []string{"Ensure", "Remove"} {
			n, last := 0, ""
			l.before = func(what string) error {
				if n++; n > steps {
					last = what
					return killed
				}
				return nil
			}
			_, err := l.Ensure(t.Context(), p)
			if err == nil {
				err = l.Up(t.Context(), p)
			}
			l.before = nil
			if finished = err == nil; !finished && !errors.Is(err, killed) {
				t.Fatal(err)
			}
			after := "a kill before the step " + strconv.Quote(last) + " and " + next
			if next == "Ensure" {
				l.ensure(t, p)
				l.same(t, p, want, after)
			}
			l.removeAll(t, p.ID)
			l.nothing(t, p, after)
		}
	}
	if steps < 25 {
		t.Errorf("stopped at %d steps, want 25 at least", steps)
	}
}

// TestKilledAtAnyTime kills a process that wires and unwires a phone.
func TestKilledAtAnyTime(t *testing.T) {
	l := newLab(t)
	p := phone("p1", 0)
	l.ensure(t, p)
	want := l.settled(t, p)
	l.removeAll(t, p.ID)
	for i := range 20 {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Env = append(os.Environ(), victimEnv+"="+strings.TrimSuffix(l.names.Path("x"), "/x"))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var word string
		if _, err := fmt.Fscan(out, &word); err != nil || word != "ready" {
			t.Fatalf("the victim says %q, %v", word, err)
		}
		kill := time.NewTimer(rand.N(50 * time.Millisecond))
		<-kill.C
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		if i%2 == 0 {
			l.ensure(t, p)
			l.same(t, p, want, "a kill")
			continue
		}
		l.removeAll(t, p.ID)
		l.nothing(t, p, "a kill")
	}
}

// removeAll removes all that a phone has.
func (l lab) removeAll(tb testing.TB, id string) {
	tb.Helper()
	if err := l.Remove(tb.Context(), id); err != nil {
		tb.Fatal(err)
	}
	if err := l.names.Delete(id); err != nil {
		tb.Fatal(err)
	}
}
