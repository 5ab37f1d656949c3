package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type thing struct {
	Name string `json:"name"`
}

var things = Table[thing]{Bucket: Phones, What: "thing"}

func open(t *testing.T, path string) *DB {
	t.Helper()
	db, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-db.stopped:
		default:
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return db
}

// names returns what the table holds.
func names(t *testing.T, db *DB) (all []string) {
	t.Helper()
	err := db.View(func(tx *Tx) error {
		for e := range things.All(tx) {
			all = append(all, e.Key+"="+e.Value.Name)
			if e.Err != nil {
				all[len(all)-1] += " " + e.Err.Error()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func put(tx *Tx, key, name string) error { return things.Put(tx, []byte(key), thing{Name: name}) }

func TestTableSurvivesReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "db")
	db := open(t, path)
	err := db.Update(func(tx *Tx) error { return errors.Join(put(tx, "b", "2"), put(tx, "a", "1"), put(tx, "c", "3")) })
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *Tx) error { return things.Delete(tx, []byte("c")) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path)
	if diff := cmp.Diff([]string{"a=1", "b=2"}, names(t, db)); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	err = db.View(func(tx *Tx) error { _, err := things.Get(tx, []byte("c")); return err })
	if !errdefs.IsNotFound(err) {
		t.Errorf("Get of a key that was removed: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file: %v %v, want 0600", info.Mode(), err)
	}
}

func TestOneBrokenValueDoesNotHideTheOthers(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	err := db.Update(func(tx *Tx) error {
		return errors.Join(put(tx, "a", "1"), tx.Bucket(Phones).Put([]byte("b"), []byte("{")), put(tx, "c", "3"))
	})
	if err != nil {
		t.Fatal(err)
	}
	got := names(t, db)
	if len(got) != 3 || got[2] != "c=3" || !strings.Contains(got[1], "decode thing") {
		t.Errorf("table: %q", got)
	}
	if err := db.View(func(tx *Tx) error { _, err := things.Get(tx, []byte("b")); return err }); !errdefs.IsDataLoss(err) {
		t.Errorf("Get of a broken value: %v", err)
	}
}

func TestFailedUpdateLeavesNothing(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	wrong, hooks := errors.New("wrong"), 0
	err := db.Update(func(tx *Tx) error {
		tx.OnCommit(func() { hooks++ })
		return errors.Join(put(tx, "a", "1"), wrong)
	})
	if !errors.Is(err, wrong) || hooks != 0 || len(names(t, db)) != 0 {
		t.Errorf("error %v, %d hooks, table %q", err, hooks, names(t, db))
	}
}

// TestGroupCommit has many callers at once, of which every third fails: each gets its own answer, in memory and on disk alike.
func TestGroupCommit(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	const callers = 300
	wrong := errors.New("wrong")
	var mu sync.Mutex
	committed := map[string]bool{}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			key := fmt.Sprintf("%03d", i)
			err := db.Update(func(tx *Tx) error {
				tx.OnCommit(func() { mu.Lock(); defer mu.Unlock(); committed[key] = true })
				if err := put(tx, key, "x"); err != nil {
					return err
				}
				if i%3 == 0 {
					return wrong
				}
				return nil
			})
			if failed := errors.Is(err, wrong); failed != (i%3 == 0) {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if got := names(t, db); len(got) != callers*2/3 || len(committed) != len(got) {
		t.Errorf("%d values stored and %d hooks run, want %d", len(got), len(committed), callers*2/3)
	}
}

// TestCommitHooksRunBeforeUpdateReturns is what lets memory follow disk without a lock over both.
func TestCommitHooksRunBeforeUpdateReturns(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	for i := range 20 {
		ran := false
		if err := db.Update(func(tx *Tx) error { tx.OnCommit(func() { ran = true }); return put(tx, "a", fmt.Sprint(i)) }); err != nil {
			t.Fatal(err)
		}
		if !ran {
			t.Fatal("the hook had not run")
		}
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open(t, path)
	_, err := Open(Config{Path: path, LockTimeout: 10 * time.Millisecond})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("second Open: %v", err)
	}
}

func TestUseAfterClose(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(*Tx) error { return nil }); !errdefs.IsUnavailable(err) {
		t.Errorf("Update: %v", err)
	}
	if err := db.View(func(*Tx) error { return nil }); !errdefs.IsUnavailable(err) {
		t.Errorf("View: %v", err)
	}
}

func TestRubbishIsNoDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, []byte(strings.Repeat("rubbish ", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Path: path}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Open of rubbish: %v", err)
	}
}

func TestKeys(t *testing.T) {
	for _, n := range []uint64{0, 1, 255, 256, 1 << 40, 1<<64 - 1} {
		if got := Number64(Key64(n)); got != n {
			t.Errorf("%d comes back as %d", n, got)
		}
	}
	if Number64([]byte("short")) != 0 {
		t.Error("a key of another length is a number")
	}
	if string(Key32(9)) >= string(Key32(10)) || string(Key64(255)) >= string(Key64(256)) {
		t.Error("the order of keys is not that of numbers")
	}
}

// TestSettle lets a commit be seen whose hook has not run: Settle returns after the hook.
func TestSettle(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	stored, release, updated := make(chan struct{}), make(chan struct{}), make(chan error)
	var memory atomic.Bool
	go func() {
		updated <- db.Update(func(tx *Tx) error {
			tx.OnCommit(func() {
				close(stored)
				<-release
				memory.Store(true)
			})
			return put(tx, "a", "1")
		})
	}()
	<-stored
	if got := names(t, db); len(got) != 1 {
		t.Fatalf("a View during the hook sees %v", got)
	}
	settled := make(chan bool)
	go func() {
		db.Settle()
		settled <- memory.Load()
	}()
	close(release)
	if !<-settled {
		t.Error("Settle returned before the hook")
	}
	if err := <-updated; err != nil {
		t.Error(err)
	}
	db.Settle() // with no commit under way it does not wait
}
