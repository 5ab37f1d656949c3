package applist

import (
	"strings"
	"testing"

	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/netpolicy/applist"
	"github.com/phonehost/phonehost/netpolicy/packages"
)

// TestAssignOfBooted puts a phone that has booted on its first list: all is judged when the call returns, before anybody follows the phone.
func TestAssignOfBooted(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		l.create("p1", "")
		h.installs("p1", launcher, "com.a 10002")
		l.on("p1")
		l.put("work", applist.Allow)
		l.assign("work", "p1")
		questions := []string{"10001", "10002", "10003"}
		if got, want := l.judges("p1", questions...), "10001+ 10002- 10003-"; got != want {
			t.Errorf("at once: %s, want %s", got, want)
		}
		if s := l.state("p1"); !s.Complete || s.DeniedApps != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestGlance takes in what was read of a phone only while it is true of it.
func TestGlance(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		l := h.begin()
		defer l.end()
		l.create("p1", "")
		h.installs("p1", launcher)
		l.on("p1")
		now, err := l.sup.Get("p1")
		if err != nil {
			t.Fatal(err)
		}
		table, err := packages.Parse(strings.NewReader("com.a 10002 0 null none none 0 0 0 @null\n"))
		if err != nil {
			t.Fatal(err)
		}
		for name, tt := range map[string]struct {
			was            func(*phone.Snapshot)
			read, complete bool
		}{
			"of now":             {func(*phone.Snapshot) {}, true, true},
			"before it booted":   {func(s *phone.Snapshot) { s.Status = phone.Starting }, true, false},
			"of a former guest":  {func(s *phone.Snapshot) { s.InitPID++ }, false, false},
			"of former data":     {func(s *phone.Snapshot) { s.Record.DataGeneration-- }, false, false},
			"of another image":   {func(s *phone.Snapshot) { s.Record.ImageDigest = "sha256:00" }, false, false},
			"of a phone deleted": {func(s *phone.Snapshot) { s.Record.CreateTime = s.Record.CreateTime.Add(-1) }, false, false},
		} {
			w, was := newWard("p1"), now
			tt.was(&was)
			l.learnGlance(t.Context(), w, glance{was, table})
			if w.apps.table != nil != tt.read || w.apps.complete != tt.complete {
				t.Errorf("%s: %+v", name, w.apps)
			}
		}
	})
}
