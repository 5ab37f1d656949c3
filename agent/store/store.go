// Package store keeps the agent's database: one bbolt file in the state directory.
//
// The package owns the file, its schema, its migrations and its transactions. It does not know what the values mean: phones,
// operations and events are encoded by their own packages, as JSON, through Table and the raw buckets of a Tx. This is the
// whole tree; keys marked be64 and be32 are big-endian numbers, so that the order of keys is the order of numbers:
//
//	meta
//	  version                         be64: version of this schema
//	phones
//	  <phone id>                      JSON of phone.Record
//	slots
//	  <be32 slot>                     id of the phone that has the slot
//	addresses
//	  <16 bytes of address>           id of the phone that has the address; IPv4 as ::ffff:a.b.c.d
//	policies
//	  <name>                          JSON of network.stored: a network policy
//	applists
//	  <name>                          JSON of applist.stored: a list of apps
//	apps
//	  <phone id>                      JSON of applist.storedApps: the apps that a phone on such a list has
//	preinstalled
//	  <image digest>                  JSON of imageapps.stored: the packages that came with an image
//	operations                        (sequence: the last operation's number)
//	  by_id
//	    <be64 number>                 JSON of operation.Operation
//	  running
//	    <be64 number>                 empty: the operation has not ended
//	  by_end
//	    <be64 ns since 1970><be64 number>   empty: when it ended, for expiry
//	  by_request
//	    <identity> 00 <request id>    be64 number: the operation that the request made
//	events                            (sequence: the last event's number)
//	  <be64 number>                   JSON of event.Event
//
// To change it: draw the change here, append an entry to migrations with a test of its own, and commit a database written by
// the release before as testdata/v<N>.db.gz. Entries that were released are never edited.
//
// Goroutines: one writer, owned by DB, runs all updates one after another; updates that wait while another is being synced to
// disk are committed together (group commit), so that a hundred controllers do not cost a hundred syncs. Readers run at any
// time, beside the writer. Commit hooks run on the writer, in the order of commits. Every commit is synced; none is lost by a
// crash once Update has returned.
package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Config says where the database is.
type Config struct {
	// Path of the file; its directory is made if it is missing, for root alone.
	Path string
	// LockTimeout is how long Open waits for another process to let go of the file; zero means one second.
	LockTimeout time.Duration
	// Logger takes what a migration does; nil means nothing is logged.
	Logger *slog.Logger

	// migrations replaces the compiled table in tests.
	migrations []migration
}

// DB is the open database. Its methods may be called by many goroutines at once.
type DB struct {
	bolt    *bolt.DB
	updates chan *update
	close   sync.Once
	closing chan struct{}
	stopped chan struct{}

	committing sync.RWMutex // held by the writer from a commit's first change to its last hook
}

// Open opens or makes the database and brings its schema up to date, after it has copied the file beside itself. It fails with
// ErrUnavailable when another agent has it open, and with ErrFailedPrecondition when a newer release wrote it.
func Open(cfg Config) (*DB, error) {
	if cfg.LockTimeout == 0 {
		cfg.LockTimeout = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.migrations == nil {
		cfg.migrations = migrations
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	b, err := bolt.Open(cfg.Path, 0o600, &bolt.Options{Timeout: cfg.LockTimeout, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: another agent runs with this state directory: %w", cfg.Path, errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Path, err)
	}
	if err := prepare(b, cfg); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	db := &DB{bolt: b, updates: make(chan *update), closing: make(chan struct{}), stopped: make(chan struct{})}
	go db.write()
	return db, nil
}

// prepare migrates the schema and makes sure that the file's name survives a crash of the host.
func prepare(b *bolt.DB, cfg Config) error {
	if err := migrate(b, cfg); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(cfg.Path))
	if err != nil {
		return fmt.Errorf("open state directory: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync state directory: %w", err)
	}
	return nil
}

// Close waits for the updates that have begun and closes the file. Later updates fail with ErrUnavailable. Closing again does nothing.
func (db *DB) Close() error {
	db.close.Do(func() { close(db.closing) })
	<-db.stopped
	if err := db.bolt.Close(); err != nil {
		return fmt.Errorf("close database: %w", err)
	}
	return nil
}

// Settle waits for the commit under way, if there is one, and its hooks. A View may see what a commit has stored before the hooks have
// brought memory up to it: whoever tells others of a View's news calls Settle first, so that they find memory the same. It must not be
// called from a transaction of Update or a hook.
func (db *DB) Settle() {
	db.committing.RLock()
	defer db.committing.RUnlock()
}

// View runs fn in a read transaction. The values that it sees are of one moment, and are valid only while it runs. It must be
// quick: pages that it could see cannot be used again until it returns.
func (db *DB) View(fn func(*Tx) error) error {
	err := db.bolt.View(func(tx *bolt.Tx) error { return fn(&Tx{bolt: tx}) })
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return errClosed
	}
	return err
}
