package applist

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/netpolicy/applist"
)

// sleep lets time of the bubble pass.
func (l *life) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// refused is what the kernel has refused just now.
func refused(kind Kind, uid uint32, pkg string, count uint64) Refusal {
	now := time.Now()
	return Refusal{Kind: kind, UID: uid, Package: pkg, Count: count, First: now, Last: now}
}

func TestDenials(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		l.create("p1", "")
		l.create("p2", "")
		h.installs("p1", launcher, "com.a 10002", "com.b 10002")
		l.put("games", applist.Deny, "com.a", "com.b")
		l.assign("games", "p1")
		l.on("p1")
		all, none := l.WatchDenials(nil), l.WatchDenials([]string{"p2"})
		defer all.Close()
		defer none.Close()
		for range 150 { // seconds
			h.k.refuse(0, refused(Launch, 1010002, "", 2))
			l.sleep(time.Second)
		}
		h.k.refuse(0, refused(Install, 1000, "com.a\n\xff", 1), refused(Network, 10009, "", 1), Refusal{Kind: Network, Unlisted: true, Count: 7})
		l.sleep(2 * time.Second)
		launches, words := uint64(0), []string{}
		for launches < 300 || len(words) < 3 {
			some, missed, err := all.Next(t.Context())
			if err != nil || missed != 0 {
				t.Fatal(missed, err)
			}
			for _, d := range some {
				if d.Phone != "p1" || d.AppList != "games" || d.First.IsZero() {
					t.Errorf("%+v", d)
				}
				if d.Kind == Launch {
					launches += d.Count
					if !slices.Equal(d.Packages, []string{"com.a", "com.b"}) {
						t.Errorf("packages of a launch: %q", d.Packages)
					}
				} else {
					words = append(words, fmt.Sprint(d.Kind, d.Packages, d.UID, d.Count))
				}
			}
		}
		slices.Sort(words)
		want := []string{`install [com.a\n\xff] 1000 1`, "network [] 0 7", "network [] 10009 1"}
		if launches != 300 || !slices.Equal(words, want) {
			t.Errorf("%d launches, %q, want %q", launches, words, want)
		}
		// What comes when nobody is told, is looked for.
		h.k.edit(func() { h.k.refusals[0] = []Refusal{refused(Launch, 10002, "", 5)} })
		l.sleep(drainAll + drainPause)
		l.end()
		l = h.begin()
		defer l.end()
		launches = 0
		others := []string{}
		for _, e := range l.events(event.AppDenied) {
			var n uint64
			if _, err := fmt.Sscanf(e, "p1 app_list=games count=%d kind=launch packages=com.a,com.b uid=1010002", &n); err == nil {
				launches += n
			} else {
				others = append(others, e)
			}
		}
		want = []string{
			`p1 app_list=games count=1 kind=install packages=com.a\n\xff uid=1000`,
			"p1 app_list=games count=1 kind=network uid=10009",
			"p1 app_list=games count=5 kind=launch packages=com.a,com.b uid=10002",
			"p1 app_list=games count=7 kind=network",
		}
		slices.Sort(others)
		if launches != 300 || !slices.Equal(others, want) {
			t.Errorf("the journal has %d launches and\n%s\nwant\n%s", launches, strings.Join(others, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestDenialsOutliveTheAgent leaves what is refused while there is no agent to the next one, and what is refused before a list goes is read.
func TestDenialsOutliveTheAgent(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		l.put("games", applist.Deny, "com.a")
		l.create("p1", "games")
		h.installs("p1", launcher, "com.a 10002")
		l.on("p1")
		l.end()
		h.k.edit(func() { h.k.refusals[0] = []Refusal{refused(Launch, 10002, "", 4)} })
		l = h.begin()
		defer l.end()
		l.sleep(time.Second)
		h.k.edit(func() { h.k.refusals[0] = []Refusal{refused(Network, 10002, "", 3)} })
		errs, err := l.Unassign(t.Context(), []string{"p1"}, "uid/0")
		if err := errors.Join(append(errs, err)...); err != nil {
			t.Fatal(err)
		}
		want := []string{"p1 app_list=games count=4 kind=launch packages=com.a uid=10002", "p1 count=3 kind=network packages=com.a uid=10002"}
		if got := l.events(event.AppDenied); !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
	})
}

func TestDenialWords(t *testing.T) {
	for want, d := range map[string]Denial{
		"com.a was not to be installed in p1":                                      {Phone: "p1", Kind: Install, Packages: []string{"com.a"}, Count: 1},
		"com.a, com.b was not to start in p1 (3 times)":                            {Phone: "p1", Kind: Launch, Packages: []string{"com.a", "com.b"}, Count: 3},
		"the app of uid 10007 was not to use the network of p1":                    {Phone: "p1", Kind: Network, UID: 10007, Count: 1},
		"some app was not to use the network of p1 (2 times)":                      {Phone: "p1", Kind: Network, Count: 2},
		"what ran of some app in p1 was ended, since it is denied (2 processes)":   {Phone: "p1", Kind: Stopped, Count: 2},
		"what ran of com.a, com.b in p1 was ended, since it is denied (1 process)": {Phone: "p1", Kind: Stopped, Packages: []string{"com.a", "com.b"}, Count: 1},
		"apps of p1 were refused something (70 times)":                             {Phone: "p1", Count: 70},
	} {
		if got := d.words(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
