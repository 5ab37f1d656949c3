package profile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
)

// BootReason is why an Android's init last shut down, as it stored it for its next boot.
type BootReason struct {
	// Value is the property persist.sys.boot.reason, such as "shutdown,userrequested" or "reboot,adb". It is empty while a booted
	// Android runs, which clears it, and after an end that was no orderly shutdown.
	Value string
	// StoredAt is when the file was last written.
	StoredAt time.Time
}

const (
	// persistentProperties is the file of init's persistent properties, below the root of /data.
	persistentProperties = "property/persistent_properties"
	bootReasonProperty   = "persist.sys.boot.reason"

	// maxPersistent bounds the file: Android's own is a few KiB.
	maxPersistent = 1 << 20
	// maxReason bounds the value that is returned: init takes values of up to 91 bytes.
	maxReason = 256
)

// ReadBootReason reads the reason from a guest's data volume, of which data is the root. The guest must have ended. A volume without
// the file has no reason, which is no error. The error is errdefs.ErrInvalidArgument for a file that is not what Android writes, and
// else what the file system says.
//
// The volume is a guest's: nothing in it is trusted. data must keep links inside it, as os.Root's does.
func ReadBootReason(data fs.FS) (BootReason, error) {
	info, err := fs.Lstat(data, persistentProperties)
	if errors.Is(err, fs.ErrNotExist) {
		return BootReason{}, nil
	}
	if err != nil {
		return BootReason{}, fmt.Errorf("read the persistent properties: %w", err)
	}
	if !info.Mode().IsRegular() {
		return BootReason{}, fmt.Errorf("read the persistent properties: %s is no regular file but %v: %w", persistentProperties, info.Mode().Type(), errdefs.ErrInvalidArgument)
	}
	if info.Size() > maxPersistent {
		return BootReason{}, fmt.Errorf("read the persistent properties: %d bytes are more than %d: %w", info.Size(), maxPersistent, errdefs.ErrInvalidArgument)
	}
	f, err := data.Open(persistentProperties)
	if err != nil {
		return BootReason{}, fmt.Errorf("read the persistent properties: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPersistent))
	if err != nil {
		return BootReason{}, fmt.Errorf("read the persistent properties: %w", err)
	}
	value, err := persistentValue(text, bootReasonProperty)
	if err != nil {
		return BootReason{}, fmt.Errorf("read the persistent properties: %w", err)
	}
	if len(value) > maxReason {
		value = value[:maxReason]
	}
	return BootReason{Value: strings.ToValidUTF8(value, "\uFFFD"), StoredAt: info.ModTime()}, nil
}

// persistentValue returns the last value of a property in the file's content, or "". The file is a protobuf message of repeated
// records, field 1, each of a name, field 1, and a value, field 2 (system/core, init/persistent_properties.proto); other fields are
// passed over.
func persistentValue(file []byte, name string) (string, error) {
	value := ""
	err := eachBytes(file, func(number protowire.Number, record []byte) error {
		if number != 1 {
			return nil
		}
		var key, val string
		err := eachBytes(record, func(number protowire.Number, content []byte) error {
			switch number {
			case 1:
				key = string(content)
			case 2:
				val = string(content)
			}
			return nil
		})
		if err == nil && key == name {
			value = val
		}
		return err
	})
	return value, err
}

// eachBytes calls fn for each field of a protobuf message that holds bytes, in order. errdefs.ErrInvalidArgument for what is no message.
func eachBytes(message []byte, fn func(protowire.Number, []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return damaged(n, message)
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return damaged(n, message)
			}
			message = message[n:]
			continue
		}
		content, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return damaged(n, message)
		}
		if err := fn(number, content); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}

func damaged(code int, message []byte) error {
	return fmt.Errorf("no protobuf message: %w, %d bytes before its end: %w", protowire.ParseError(code), len(message), errdefs.ErrInvalidArgument)
}
