package property

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
)

// The file of persistent properties is Android's /data/property/persistent_properties: one protobuf message
//
//	message PersistentProperties { repeated Record properties = 1; message Record { string name = 1; string value = 2; } }
const (
	fieldRecord = 1
	fieldName   = 1
	fieldValue  = 2
)

// maxPersistent bounds the file that is read, in bytes.
const maxPersistent = 4 << 20

// ReadPersistent reads a file of persistent properties in Android's format, as it lies in /data/property/persistent_properties.
// Errors: fs.ErrNotExist, errdefs.ErrDataLoss when it cannot be understood.
func ReadPersistent(file string) ([]Property, error) { return readPersistent(file) }

func readPersistent(file string) ([]Property, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPersistent+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxPersistent {
		return nil, fmt.Errorf("%s: more than %d bytes: %w", file, maxPersistent, errdefs.ErrDataLoss)
	}
	list, err := parsePersistent(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return list, nil
}

func parsePersistent(text []byte) ([]Property, error) {
	var list []Property
	err := eachField(text, func(num protowire.Number, record []byte) error {
		if num != fieldRecord {
			return nil
		}
		var p Property
		if err := eachField(record, func(num protowire.Number, value []byte) error {
			switch num {
			case fieldName:
				p.Name = string(value)
			case fieldValue:
				p.Value = string(value)
			}
			return nil
		}); err != nil {
			return err
		}
		list = append(list, p)
		return nil
	})
	return list, err
}

// eachField calls f with every length-delimited field of a message; fields of other kinds are left out.
func eachField(msg []byte, f func(protowire.Number, []byte) error) error {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return fmt.Errorf("tag: %w: %w", protowire.ParseError(n), errdefs.ErrDataLoss)
		}
		msg = msg[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, msg); n < 0 {
				return fmt.Errorf("field %d: %w: %w", num, protowire.ParseError(n), errdefs.ErrDataLoss)
			}
			msg = msg[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(msg)
		if n < 0 {
			return fmt.Errorf("field %d: %w: %w", num, protowire.ParseError(n), errdefs.ErrDataLoss)
		}
		msg = msg[n:]
		if err := f(num, value); err != nil {
			return err
		}
	}
	return nil
}

func formatPersistent(list []Property) []byte {
	var text []byte
	for _, p := range list {
		var record []byte
		record = protowire.AppendTag(record, fieldName, protowire.BytesType)
		record = protowire.AppendString(record, p.Name)
		record = protowire.AppendTag(record, fieldValue, protowire.BytesType)
		record = protowire.AppendString(record, p.Value)
		text = protowire.AppendTag(text, fieldRecord, protowire.BytesType)
		text = protowire.AppendBytes(text, record)
	}
	return text
}

// writePersistent replaces the file by a temporary file and a rename, so a crash leaves the old one or the new one.
func writePersistent(file string, list []Property) error {
	tmp := file + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(formatPersistent(list)); err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", tmp, err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
