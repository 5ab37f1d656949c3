package e2e

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAppListKilled kills the agent at any moment of a list's change. The list is what it was or what was asked for afterwards, whole, and the kernel
// and the phone's package manager do what it says.
func TestAppListKilled(t *testing.T) {
	h, _ := newNetHost(t)
	h.create("p1")
	h.installNet("p1")
	contents := [][]string{{"com.example.other", "com.example.ads.*"}, {"com.example.net", "com.example.a", "com.example.b"}}
	put := func(n int) []string { return append([]string{"applist", "put", "games", "--deny"}, contents[n]...) }
	h.ctl(put(0)...)
	h.ctl("applist", "assign", "games", "p1")
	now, changed := 0, 0
	for round := range 10 {
		asked := 1 - now
		change := h.command(t.Context(), put(asked)...)
		if err := change.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(rand.Int64N(int64(25 * time.Millisecond))))
		h.killAgent()
		_ = change.Wait() // it may have had its answer before
		h.startAgent()
		has := h.packages("games")
		is := slices.IndexFunc(contents, func(c []string) bool { return slices.Equal(c, has) })
		if is < 0 {
			t.Fatalf("round %d: the list has %q", round, has)
		}
		if is == asked {
			changed++
		}
		now = is
		if now == 0 {
			h.ctl("applist", "check", "p1", "com.example.net")
			h.waitFor("the app that is allowed", func() bool { return strings.Contains(h.tries("p1"), "connected to") })
			continue
		}
		h.refused(1, "applist", "check", "p1", "com.example.net")
		if out := h.release("p1"); strings.Contains(out, "connected to") {
			t.Errorf("round %d: a denied app reaches the server: %s", round, out)
		}
	}
	t.Logf("of 10 changes %d were stored", changed)
}

// packages are the entries of a list.
func (d *door) packages(list string) []string {
	d.t.Helper()
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(d.ctl("applist", "export", list)), "\n"), func(line string) bool { return strings.HasPrefix(line, "#") })
}
