package property

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// SocketPath is where the service listens inside a phone.
const SocketPath = "/dev/socket/property_service"

const (
	cmdSet   = 0x00020001
	cmdGet   = 0x00ff0001
	cmdList  = 0x00ff0002
	cmdWatch = 0x00ff0003
)

const (
	resultOK               = 0
	resultReadCommand      = 0x04
	resultReadOnly         = 0x0b
	resultInvalidName      = 0x10
	resultInvalidValue     = 0x14
	resultPermissionDenied = 0x18
	resultInvalidCommand   = 0x1b
	resultControl          = 0x20
	resultSetFailed        = 0x24
)

// maxString bounds a string on the wire, in bytes; maxCount bounds a list.
const (
	maxString = 16 << 10
	maxCount  = 1 << 16
)

func resultOf(name string, err error) uint32 {
	switch {
	case err == nil:
		return resultOK
	case errors.Is(err, ErrReadOnly):
		return resultReadOnly
	case errors.Is(err, errdefs.ErrPermissionDenied):
		return resultPermissionDenied
	case errors.Is(err, errdefs.ErrInvalidArgument) && !legalName(name):
		return resultInvalidName
	case errors.Is(err, errdefs.ErrInvalidArgument):
		return resultInvalidValue
	}
	return resultSetFailed
}

// errorOf turns a result into an error of the class that the server had.
func errorOf(result uint32) error {
	switch result {
	case resultOK:
		return nil
	case resultReadOnly:
		return ErrReadOnly
	case resultPermissionDenied:
		return fmt.Errorf("not allowed to this user: %w", errdefs.ErrPermissionDenied)
	case resultInvalidName:
		return fmt.Errorf("name is not legal: %w", errdefs.ErrInvalidArgument)
	case resultInvalidValue:
		return fmt.Errorf("value is not legal: %w", errdefs.ErrInvalidArgument)
	case resultControl:
		return fmt.Errorf("no such service or action: %w", errdefs.ErrNotFound)
	}
	return fmt.Errorf("property service answered 0x%x: %w", result, errdefs.ErrUnknown)
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

func readUint32(r io.Reader) (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}

func readString(r io.Reader) (string, error) {
	n, err := readUint32(r)
	if err != nil {
		return "", err
	}
	if n > maxString {
		return "", fmt.Errorf("string of %d bytes is longer than %d: %w", n, maxString, errdefs.ErrInvalidArgument)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	return string(b), nil
}
