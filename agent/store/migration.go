package store

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// migration brings the schema from one version to the next.
type migration struct {
	// version is the schema's version afterwards; versions count from 1 without a gap.
	version uint64
	// what it does, for the log.
	what string
	// apply changes the buckets. All that are due run in one transaction.
	apply func(*bolt.Tx) error
}

// migrations is the schema's history. Every entry has a test in migration_test.go named for its version.
var migrations = []migration{
	{1, "first schema: phones, slots, operations, events", createBuckets},
	{2, "networks: addresses of phones, policies", createNetworkBuckets},
	{3, "lists of apps, and what they are applied to", createAppListBuckets},
}

// createAppListBuckets makes the buckets of version 3. The phones that there are are on no list.
func createAppListBuckets(tx *bolt.Tx) error {
	for _, name := range []string{"applists", "apps", "preinstalled"} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("make bucket %s: %w", name, err)
		}
	}
	return nil
}

// createNetworkBuckets makes the buckets of version 2. The phones that there are get their addresses from the agent, which knows its pools.
func createNetworkBuckets(tx *bolt.Tx) error {
	for _, name := range []string{"addresses", "policies"} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("make bucket %s: %w", name, err)
		}
	}
	return nil
}

// createBuckets makes the buckets of version 1. The list is written out, since the variables of the schema move on.
func createBuckets(tx *bolt.Tx) error {
	for _, name := range []string{"phones", "slots", "events"} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("make bucket %s: %w", name, err)
		}
	}
	ops, err := tx.CreateBucketIfNotExists([]byte("operations"))
	if err != nil {
		return fmt.Errorf("make bucket operations: %w", err)
	}
	for _, name := range []string{"by_id", "running", "by_end", "by_request"} {
		if _, err := ops.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("make bucket operations/%s: %w", name, err)
		}
	}
	return nil
}

// versionKey holds the schema's version in the bucket meta.
var versionKey = []byte("version")

// migrate brings the schema up to the newest version of the table.
func migrate(b *bolt.DB, cfg Config) error {
	have, err := schemaVersion(b)
	if err != nil {
		return err
	}
	want := cfg.migrations[len(cfg.migrations)-1].version
	if have == want {
		return nil
	}
	if have > want {
		return fmt.Errorf("open %s: its schema is version %d and this agent knows up to %d: install the newer release again: %w",
			cfg.Path, have, want, errdefs.ErrFailedPrecondition)
	}
	if have > 0 {
		if err := backUp(b, fmt.Sprintf("%s.v%d.bak", cfg.Path, have)); err != nil {
			return err
		}
	}
	return b.Update(func(tx *bolt.Tx) error {
		for _, m := range cfg.migrations {
			if m.version <= have {
				continue
			}
			cfg.Logger.Info("migrating database", "version", m.version, "what", m.what)
			if err := m.apply(tx); err != nil {
				return fmt.Errorf("migrate database to version %d: %w", m.version, err)
			}
		}
		meta, err := tx.CreateBucketIfNotExists([]byte(Meta[0]))
		if err != nil {
			return fmt.Errorf("make bucket meta: %w", err)
		}
		return meta.Put(versionKey, Key64(want))
	})
}

// schemaVersion returns the stored version, 0 for a new file.
func schemaVersion(b *bolt.DB) (uint64, error) {
	var version uint64
	err := b.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket([]byte(Meta[0]))
		if meta == nil {
			return nil
		}
		v := meta.Get(versionKey)
		if len(v) != 8 {
			return fmt.Errorf("read version of database: %d bytes where 8 should be: %w", len(v), errdefs.ErrDataLoss)
		}
		version = binary.BigEndian.Uint64(v)
		return nil
	})
	return version, err
}

// backUp copies the database to a file beside it, complete or not at all. An older copy of the same version is replaced.
func backUp(b *bolt.DB, path string) error {
	part := path + ".part"
	err := b.View(func(tx *bolt.Tx) error {
		f, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := tx.WriteTo(f); err != nil {
			return err
		}
		return f.Sync()
	})
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return fmt.Errorf("back up database to %s: %w", path, err)
	}
	return nil
}
