package health

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRegistry(t *testing.T) {
	now := time.Unix(100, 0)
	r := New(func() time.Time { return now })
	r.Set("disk-low", Warning, "2 GiB left")
	now = now.Add(time.Minute)
	r.Set("containerd-lost", Error, "no answer")
	r.Set("disk-low", Warning, "1 GiB left")

	want := []Finding{
		{Name: "containerd-lost", Severity: Error, Message: "no answer", Since: time.Unix(160, 0)},
		{Name: "disk-low", Severity: Warning, Message: "1 GiB left", Since: time.Unix(100, 0)},
	}
	if diff := cmp.Diff(want, r.List()); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	if r.Serving() {
		t.Error("serving while an error stands")
	}
	r.Clear("containerd-lost")
	if !r.Serving() {
		t.Error("not serving while only a warning stands")
	}
	r.Clear("never-set")
	now = now.Add(time.Minute)
	r.Clear("disk-low")
	r.Set("disk-low", Warning, "again")
	if got := r.List()[0].Since; !got.Equal(now) {
		t.Errorf("a warning that was cleared and set again stands since %v, want %v", got, now)
	}
}

func TestSubscribe(t *testing.T) {
	r := New(nil)
	var got []bool
	cancel := r.Subscribe(func(serving bool) { got = append(got, serving) })
	r.Set("a", Warning, "x")
	r.Set("a", Warning, "x") // no change
	r.Set("b", Error, "x")
	r.Clear("b")
	r.Clear("b") // no change
	cancel()
	r.Set("b", Error, "x")
	if diff := cmp.Diff([]bool{true, true, false, true}, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// The last call must tell what is, however changes overlap.
func TestSubscribeConcurrent(t *testing.T) {
	r := New(nil)
	var last bool
	defer r.Subscribe(func(serving bool) { last = serving })()
	var all sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		all.Go(func() {
			for range 200 {
				r.Set(name, Error, "x")
				r.Clear(name)
			}
		})
	}
	all.Wait()
	r.telling.Lock()
	defer r.telling.Unlock()
	if last != true {
		t.Error("the last call says not serving, and no warning stands")
	}
}
