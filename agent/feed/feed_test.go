package feed

import (
	"context"
	"slices"
	"testing"
)

// TestWatchers gives each watcher what it wants, in order, and tells a slow one what it has missed.
func TestWatchers(t *testing.T) {
	var f Feed[int]
	even := f.Watch(func(n int) bool { return n%2 == 0 })
	all := f.Watch(func(int) bool { return true })
	defer all.Close()
	for n := range MaxWaiting + 10 {
		f.Send(n)
	}
	items, missed, err := all.Next(t.Context())
	if err != nil || missed != 10 || len(items) != MaxNext || items[0] != 10 {
		t.Errorf("the slow watcher: %d items from %d, %d missed, %v", len(items), items[0], missed, err)
	}
	items, missed, err = even.Next(t.Context())
	if want := []int{0, 2, 4}; err != nil || missed != 0 || !slices.Equal(items[:3], want) {
		t.Errorf("the watcher of even numbers: %v, %d missed, %v", items[:3], missed, err)
	}
	even.Close()
	f.Send(1 << 20)
	for slices.Max(items) < MaxWaiting+8 {
		if items, missed, err = even.Next(t.Context()); err != nil || missed != 0 {
			t.Fatal(missed, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if items, _, err := even.Next(ended); err == nil {
		t.Errorf("a watcher that is closed gets %v", items)
	}
}

func TestAmong(t *testing.T) {
	if one := Among([]string{"p1", "p2"}); !one("p2") || one("p3") {
		t.Error("among p1 and p2")
	}
	if all := Among(nil); !all("p3") {
		t.Error("none named means all")
	}
}
