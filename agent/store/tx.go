package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// Bucket names a bucket of the schema by the path to it.
type Bucket []string

// The buckets of the schema.
var (
	Meta                = Bucket{"meta"}
	Phones              = Bucket{"phones"}
	Slots               = Bucket{"slots"}
	Operations          = Bucket{"operations"}
	OperationsByID      = Bucket{"operations", "by_id"}
	OperationsRunning   = Bucket{"operations", "running"}
	OperationsByEnd     = Bucket{"operations", "by_end"}
	OperationsByRequest = Bucket{"operations", "by_request"}
	Events              = Bucket{"events"}
	Addresses           = Bucket{"addresses"}
	Policies            = Bucket{"policies"}
	AppLists            = Bucket{"applists"}
	Apps                = Bucket{"apps"}
	Preinstalled        = Bucket{"preinstalled"}
)

// Tx is a transaction. It is valid only while the function that got it runs, on that goroutine.
type Tx struct{ bolt *bolt.Tx }

// OnCommit has fn run after the transaction is on disk, on the writer, before any later transaction begins. fn must be quick
// and must not call Update. In a read transaction it is never run.
func (tx *Tx) OnCommit(fn func()) { tx.bolt.OnCommit(fn) }

// Bucket returns a bucket of the schema, which always exists.
func (tx *Tx) Bucket(path Bucket) *bolt.Bucket {
	b := tx.bolt.Bucket([]byte(path[0]))
	for _, name := range path[1:] {
		b = b.Bucket([]byte(name))
	}
	return b
}

// Key64 returns a number as a key whose order is the number's.
func Key64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Number64 reads what Key64 wrote; a key of another length gives 0.
func Number64(key []byte) uint64 {
	if len(key) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}

// Key32 returns a number as a key whose order is the number's.
func Key32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// Table is a bucket whose values are the JSON of one type.
type Table[T any] struct {
	// Bucket is where the values are.
	Bucket Bucket
	// What names a value in errors, such as "phone".
	What string
}

// Get returns the value under a key, or ErrNotFound.
func (t Table[T]) Get(tx *Tx, key []byte) (T, error) {
	var v T
	data := tx.Bucket(t.Bucket).Get(key)
	if data == nil {
		return v, fmt.Errorf("read %s %q: %w", t.What, key, errdefs.ErrNotFound)
	}
	return v, t.decode(key, data, &v)
}

// Put stores a value under a key.
func (t Table[T]) Put(tx *Tx, key []byte, v T) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s %q: %w", t.What, key, err)
	}
	if err := tx.Bucket(t.Bucket).Put(key, data); err != nil {
		return fmt.Errorf("store %s %q: %w", t.What, key, err)
	}
	return nil
}

// Delete removes a key; one that is not there is no error.
func (t Table[T]) Delete(tx *Tx, key []byte) error {
	if err := tx.Bucket(t.Bucket).Delete(key); err != nil {
		return fmt.Errorf("remove %s %q: %w", t.What, key, err)
	}
	return nil
}

// Entry is one value of a table, or the error that kept it from being read: one broken value does not hide the others.
type Entry[T any] struct {
	// Key is the value's key.
	Key string
	// Value is the value; zero with an error.
	Value T
	// Err is why the value cannot be read (ErrDataLoss), else nil.
	Err error
}

// All yields the whole table in the order of keys. The table must not be changed meanwhile.
func (t Table[T]) All(tx *Tx) iter.Seq[Entry[T]] {
	return func(yield func(Entry[T]) bool) {
		c := tx.Bucket(t.Bucket).Cursor()
		for k, data := c.First(); k != nil; k, data = c.Next() {
			e := Entry[T]{Key: string(k)}
			e.Err = t.decode(k, data, &e.Value)
			if !yield(e) {
				return
			}
		}
	}
}

func (t Table[T]) decode(key, data []byte, v *T) error {
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %s %q: %w: %w", t.What, key, err, errdefs.ErrDataLoss)
	}
	return nil
}
