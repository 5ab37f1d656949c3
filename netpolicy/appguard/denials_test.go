package appguard_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/netpolicy/appguard"
)

// total adds the counts of denials up.
func total(list []appguard.Denial) uint64 {
	var n uint64
	for _, d := range list {
		n += d.Count
	}
	return n
}

// Not one refusal is lost or counted twice while the table is drained, from several processes at once.
func TestDenialsAreExact(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	p.set(t, g, appguard.Phone{Apps: apps})
	const processes = 4
	times := 20000
	if few() {
		times = 1000
	}
	over := make(chan struct{})
	for range processes {
		go func() {
			defer func() { over <- struct{}{} }()
			if met := p.guest(t, fmt.Sprintf("setresuid %d %[1]d 0", appOffline), fmt.Sprintf("times %d EPERM connect udp 4 9", times)); met[1] != "done" {
				t.Errorf("it meets %v", met)
			}
		}()
	}
	var drained uint64
	drains := 0
	for running := processes; running > 0; drains++ {
		select {
		case <-over:
			running--
		default:
		}
		drained += total(drain(t, g, 0))
	}
	drained += total(drain(t, g, 0))
	c, err := g.Counters(0)
	if want := uint64(processes * times); drained != want || c.Denied[appguard.KindNetwork] != want || err != nil {
		t.Errorf("%d refusals were drained by %d drains, %d counted, %v; want %d", drained, drains, c.Denied[appguard.KindNetwork], err, want)
	}
	t.Logf("%d drains", drains)
}

// What finds no room is counted, and told as such.
func TestDenialsWithoutRoom(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	const kinds = crowd // of refusals; the table holds 256
	p.set(t, g, appguard.Phone{Apps: crowdOffline()})
	for range 2 {
		var steps []string
		for i := range kinds {
			steps = append(steps, fmt.Sprintf("setresuid %d 0 0", 10000+i), "connect udp 4 9")
		}
		met := p.guest(t, steps...)
		if n := len(slices.DeleteFunc(met, func(m string) bool { return m != "EPERM" })); n != kinds {
			t.Fatalf("%d of %d were refused", n, kinds)
		}
		list := drain(t, g, 0)
		var unlisted uint64
		for _, d := range list {
			if d.Unlisted {
				unlisted += d.Count
			}
		}
		if n := total(list); n != kinds || unlisted == 0 || unlisted > kinds-256+16 {
			t.Errorf("%d refusals, %d of them unlisted; want %d", n, unlisted, kinds)
		}
		if again := drain(t, g, 0); len(again) > 0 {
			t.Errorf("drained once more: %v", again)
		}
	}
}

// What was not reported is reported again, also to another process; what was is not.
func TestDenialsAreReportedOnce(t *testing.T) {
	g := open(t)
	if err := g.SetPhone(7, appguard.Phone{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := g.Deny(0, appDenied, 5); err != nil {
		t.Fatal(err)
	}
	failing := errors.New("the store is full")
	for range 2 {
		if err := g.DrainDenials(0, func([]appguard.Denial) error { return failing }); !errors.Is(err, failing) {
			t.Errorf("drain: %v", err)
		}
	}
	if err := g.Deny(0, appDenied, 7); err != nil { // in the new table
		t.Fatal(err)
	}
	g.Close()
	g = reopen(t)
	var got []string
	for range 3 {
		for _, d := range drain(t, g, 0) {
			got = append(got, counts([]appguard.Denial{d})...)
			if d.First.Before(began.Add(-time.Second)) || d.Last.After(time.Now().Add(time.Second)) {
				t.Errorf("it was at %v to %v", d.First, d.Last)
			}
		}
	}
	if want := []string{`launch 10002 "" 5`, `launch 10002 "" 7`}; !slices.Equal(got, want) {
		t.Errorf("denials are %q; want %q", got, want)
	}
	if err := g.DrainDenials(1000, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a slot that is none: %v", err)
	}
	if _, err := g.Counters(1000); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a slot that is none: %v", err)
	}
}

// An event comes for what the table does not have yet, and for nothing else.
func TestEvents(t *testing.T) {
	g := open(t)
	p := makePhone(t, "p1")
	p.set(t, g, appguard.Phone{Slot: 9, Apps: apps})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := make(chan appguard.Event)
	ended := make(chan error, 1)
	go func() {
		defer close(events)
		for e, err := range g.Events(ctx) {
			if err != nil {
				ended <- err
				return
			}
			events <- e
		}
		ended <- nil
	}()
	want := appguard.Event{Slot: 9, Kind: appguard.KindNetwork}
	for range 2 {
		p.guest(t, fmt.Sprintf("setresuid %d 0 0", appOffline), "connect udp 4 9", "connect udp 4 9", "send 4 9")
		if e := <-events; e != want {
			t.Errorf("the event is %+v", e)
		}
		drain(t, g, 9)
	}
	for _, err := range g.Events(t.Context()) {
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "reader already") {
			t.Errorf("a second reader: %v", err)
		}
	}
	cancel()
	for e := range events {
		t.Errorf("another event: %+v", e)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
