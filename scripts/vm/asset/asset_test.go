package asset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, dir string) *Cache {
	t.Helper()
	c, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// fill is a build that writes one file.
func fill(text string) func(context.Context, string) error {
	return func(_ context.Context, dir string) error {
		return os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644)
	}
}

func never(t *testing.T) func(context.Context, string) error {
	return func(context.Context, string) error {
		t.Error("it was built again")
		return nil
	}
}

func TestBuild(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	one, err := c.Build(t.Context(), "thing-6.1", Hash("1"), fill("one"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := c.Build(t.Context(), "thing-6.1", Hash("2"), fill("two"))
	if err != nil {
		t.Fatal(err)
	}
	if one == two {
		t.Fatalf("two keys have one directory %s", one)
	}
	for _, other := range []*Cache{c, open(t, dir)} {
		again, err := other.Build(t.Context(), "thing-6.1", Hash("1"), never(t))
		if err != nil || again != one {
			t.Errorf("found %s, %v, want %s", again, err, one)
		}
	}
	if text, err := os.ReadFile(filepath.Join(one, "file")); err != nil || string(text) != "one" {
		t.Errorf("content %q, %v", text, err)
	}
	list, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range list {
		names = append(names, a.Name+" "+a.Path)
		if a.Bytes <= 0 {
			t.Errorf("%s takes %d bytes", a.Name, a.Bytes)
		}
	}
	want := []string{"thing-6.1 " + one, "thing-6.1 " + two}
	if Hash("2") < Hash("1") {
		want[0], want[1] = want[1], want[0]
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func TestBuildRefusesBadNames(t *testing.T) {
	c := open(t, t.TempDir())
	for _, name := range []string{"", "../x", "a/b", ".x", "-x"} {
		if _, err := c.Build(t.Context(), name, Hash("1"), never(t)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := c.Build(t.Context(), "x", "short", never(t)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("short key: %v", err)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	c := open(t, t.TempDir())
	broken := errors.New("broken")
	var seen string
	_, err := c.Build(t.Context(), "thing", Hash("1"), func(ctx context.Context, dir string) error {
		seen = dir
		if err := fill("half")(ctx, dir); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "thing-") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(seen); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished directory: %v", err)
	}
	path, err := c.Build(t.Context(), "thing", Hash("1"), fill("whole"))
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(path, "file")); string(text) != "whole" {
		t.Errorf("content %q", text)
	}
}

func TestGoroutinesBuildOnce(t *testing.T) {
	c := open(t, t.TempDir())
	var builds atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			_, err := c.Build(t.Context(), "thing", Hash("1"), func(ctx context.Context, dir string) error {
				builds.Add(1)
				return fill("x")(ctx, dir)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("%d builds", n)
	}
}

func TestWaitingEndsWithContext(t *testing.T) {
	dir := t.TempDir()
	c, other := open(t, dir), open(t, dir)
	why := errors.New("enough")
	_, err := c.Build(t.Context(), "thing", Hash("1"), func(ctx context.Context, temp string) error {
		for name, waiter := range map[string]*Cache{"goroutine": c, "process": other} {
			waiting, cancel := context.WithCancelCause(ctx)
			cancel(why)
			if _, err := waiter.Build(waiting, "thing", Hash("1"), never(t)); !errors.Is(err, why) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	builder := open(t, dir)
	old := time.Now().Add(-48 * time.Hour)
	paths := map[string]string{}
	for _, name := range []string{"old", "used", "young"} {
		path, err := builder.Build(t.Context(), name, Hash("1"), fill(name))
		if err != nil {
			t.Fatal(err)
		}
		paths[name] = path
	}
	builder.Close()
	user, c := open(t, dir), open(t, dir)
	if _, err := user.Build(t.Context(), "used", Hash("1"), never(t)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "used"} {
		if err := os.Chtimes(paths[name], old, old); err != nil {
			t.Fatal(err)
		}
	}
	gone, err := c.Prune(time.Minute) // a day at least
	if err != nil {
		t.Fatal(err)
	}
	if len(gone) != 1 || gone[0].Name != "old" {
		t.Errorf("removed %+v, want old alone", gone)
	}
	for name, path := range paths {
		if _, err := os.Stat(path); (err == nil) != (name != "old") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, buildDir)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	c, other := open(t, dir), open(t, dir)
	held, err := c.Lock(t.Context(), func(holders string) { t.Errorf("a free lock is held by %s", holders) }, "one")
	if err != nil {
		t.Fatal(err)
	}
	free, err := other.Lock(t.Context(), nil, "another")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	why := errors.New("enough waited")
	ctx, cancel := context.WithCancelCause(t.Context())
	var told string
	if _, err := other.Lock(ctx, func(holders string) { told = holders; cancel(why) }, "one"); !errors.Is(err, why) {
		t.Errorf("a second holder: %v", err)
	}
	if want := fmt.Sprint("pid ", os.Getpid()); told != want {
		t.Errorf("waiting was told of %q, want %q", told, want)
	}
	// The one that waits gets it when it becomes free.
	next, err := other.Lock(t.Context(), func(string) { held.Close() }, "one")
	if err != nil {
		t.Fatal(err)
	}
	next.Close()
	if _, err := c.Lock(t.Context(), nil, "../one"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name that is none: %v", err)
	}
}

func TestHash(t *testing.T) {
	keys := map[Key]string{}
	for name, k := range map[string]Key{
		"none": Hash(), "empty": Hash(""), "two empty": Hash("", ""), "ab": Hash("ab"), "a b": Hash("a", "b"), "b a": Hash("b", "a"),
	} {
		if len(k) != 64 {
			t.Errorf("%s: key %q", name, k)
		}
		if other := keys[k]; other != "" {
			t.Errorf("%s and %s have one key", name, other)
		}
		keys[k] = name
	}
}

func TestHashFiles(t *testing.T) {
	base := func() fstest.MapFS {
		return fstest.MapFS{"d/a": {Data: []byte("1"), Mode: 0o644}, "d/b": {Data: []byte("2"), Mode: 0o644}, "e/c": {Data: []byte("3"), Mode: 0o644}}
	}
	same, err := HashFiles(base(), "d")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(fstest.MapFS)
		differ bool
	}{
		"nothing":        {func(fstest.MapFS) {}, false},
		"another folder": {func(f fstest.MapFS) { f["e/c"].Data = []byte("x") }, false},
		"time":           {func(f fstest.MapFS) { f["d/a"].ModTime = time.Unix(1, 0) }, false},
		"content":        {func(f fstest.MapFS) { f["d/a"].Data = []byte("x") }, true},
		"name":           {func(f fstest.MapFS) { f["d/z"] = f["d/a"]; delete(f, "d/a") }, true},
		"executable":     {func(f fstest.MapFS) { f["d/a"].Mode = 0o755 }, true},
		"one more":       {func(f fstest.MapFS) { f["d/x/y"] = &fstest.MapFile{} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := base()
			tt.change(f)
			got, err := HashFiles(f, "d")
			if err != nil {
				t.Fatal(err)
			}
			if (got != same) != tt.differ {
				t.Errorf("the key differs: %v, want %v", got != same, tt.differ)
			}
		})
	}
	if _, err := HashFiles(base(), "none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}
