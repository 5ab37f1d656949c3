package store

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

// unpack puts a committed database of an old release where it can be opened.
func unpack(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTableOfMigrations(t *testing.T) {
	for i, m := range migrations {
		if m.version != uint64(i+1) || m.what == "" || m.apply == nil {
			t.Errorf("entry %d is version %d %q", i, m.version, m.what)
		}
	}
}

// TestMigration1 makes the buckets of version 1, by name.
func TestMigration1(t *testing.T) {
	b, err := bolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Update(migrations[0].apply); err != nil {
		t.Fatal(err)
	}
	var got []string
	err = b.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, top *bolt.Bucket) error {
			got = append(got, string(name))
			return top.ForEachBucket(func(sub []byte) error {
				got = append(got, string(name)+"/"+string(sub))
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"events", "operations", "operations/by_end", "operations/by_id", "operations/by_request", "operations/running", "phones", "slots"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("buckets (-want +got):\n%s", diff)
	}
}

// TestDatabaseOfVersion1 opens a database that release 1 wrote.
func TestDatabaseOfVersion1(t *testing.T) {
	path := unpack(t, "v1.db.gz")
	db := open(t, path)
	err := db.View(func(tx *Tx) error {
		for bucket, want := range map[string]struct {
			path Bucket
			n    int
		}{
			"phones": {Phones, 2}, "slots": {Slots, 2}, "operations": {OperationsByID, 2}, "running": {OperationsRunning, 1},
			"ended": {OperationsByEnd, 1}, "requests": {OperationsByRequest, 1}, "events": {Events, 13},
		} {
			if got := tx.Bucket(want.path).Stats().KeyN; got != want.n {
				t.Errorf("%d keys in %s, want %d", got, bucket, want.n)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMigration2 brings a database of release 1 to version 2: the new buckets are there, and a copy of the file as it was.
func TestMigration2(t *testing.T) {
	path := unpack(t, "v1.db.gz")
	db, err := Open(Config{Path: path, migrations: migrations[:2]})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, bucket := range []Bucket{Addresses, Policies} {
		err := db.Update(func(tx *Tx) error { return tx.Bucket(bucket).Put([]byte("k"), []byte("v")) })
		if err != nil {
			t.Errorf("bucket %v: %v", bucket, err)
		}
	}
	if backups, _ := filepath.Glob(path + ".v*"); !slices.Equal(backups, []string{path + ".v1.bak"}) {
		t.Errorf("copies of the database: %v", backups)
	}
}

// TestMigration3 brings databases of releases 1 and 2 to version 3: what was there is, the new buckets are, and a copy of the file as it was.
func TestMigration3(t *testing.T) {
	for version, had := range map[string]struct {
		phones, policies int
	}{"v1": {phones: 2}, "v2": {phones: 3, policies: 1}} {
		path := unpack(t, version+".db.gz")
		db, err := Open(Config{Path: path, migrations: migrations[:3]})
		if err != nil {
			t.Fatal(err)
		}
		for _, bucket := range []Bucket{AppLists, Apps, Preinstalled} {
			err := db.Update(func(tx *Tx) error { return tx.Bucket(bucket).Put([]byte("k"), []byte("v")) })
			if err != nil {
				t.Errorf("%s: bucket %v: %v", version, bucket, err)
			}
		}
		err = db.View(func(tx *Tx) error {
			if got := tx.Bucket(Phones).Stats().KeyN; got != had.phones {
				t.Errorf("%s: %d phones, want %d", version, got, had.phones)
			}
			if got := tx.Bucket(Policies).Stats().KeyN; got != had.policies {
				t.Errorf("%s: %d policies, want %d", version, got, had.policies)
			}
			return nil
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Error(err)
		}
		if backups, _ := filepath.Glob(path + ".v*"); !slices.Equal(backups, []string{path + "." + version + ".bak"}) {
			t.Errorf("%s: copies of the database: %v", version, backups)
		}
	}
}

func TestUpgradeBacksUpFirst(t *testing.T) {
	path := unpack(t, "v1.db.gz")
	newer := uint64(len(migrations) + 1)
	next := append(slices.Clone(migrations), migration{newer, "test", func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("new"))
		return err
	}})
	db, err := Open(Config{Path: path, migrations: next})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	old := open(t, path+".v1.bak")
	if got := names(t, old); len(got) != 2 {
		t.Errorf("the copy holds %q", got)
	}
	if _, err := Open(Config{Path: path}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), fmt.Sprintf("version %d", newer)) {
		t.Errorf("an older release opens a newer database: %v", err)
	}
}

func TestMigrationThatFailsChangesNothing(t *testing.T) {
	path := unpack(t, "v1.db.gz")
	wrong := errors.New("wrong")
	next := append(migrations[:1:1],
		migration{2, "first", func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("phones")) }},
		migration{3, "second", func(*bolt.Tx) error { return wrong }})
	if _, err := Open(Config{Path: path, migrations: next}); !errors.Is(err, wrong) {
		t.Fatalf("Open: %v", err)
	}
	if got := names(t, open(t, path)); len(got) != 2 {
		t.Errorf("after a migration that failed the database holds %q", got)
	}
}
