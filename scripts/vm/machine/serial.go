package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
)

// SerialLog returns what the guest's kernel, and its process 1, wrote to the serial console since the machine was started,
// over all its boots. It is "" after Close of a machine without Config.Dir.
func (m *Machine) SerialLog() string {
	data, err := os.ReadFile(m.dir.file(serialFile))
	if err != nil {
		return ""
	}
	return string(data)
}

func (m *Machine) serialSize() int64 {
	info, err := os.Stat(m.dir.file(serialFile))
	if err != nil {
		return 0
	}
	return info.Size()
}

// serialTail returns the last lines of the serial log for an error.
func (m *Machine) serialTail() string {
	f, err := os.Open(m.dir.file(serialFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	if size := m.serialSize(); size > tailBytes {
		if _, err := f.Seek(size-tailBytes, io.SeekStart); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(data))
}

// panicked returns the kernel's line of a panic that the serial log has from offset on, or "".
func (m *Machine) panicked(offset int64) string {
	f, err := os.Open(m.dir.file(serialFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, offset, 1<<20))
	if err != nil {
		return ""
	}
	at := bytes.Index(data, []byte("Kernel panic - not syncing"))
	if at < 0 {
		return ""
	}
	line, _, _ := bytes.Cut(data[at:], []byte("\n"))
	return string(bytes.TrimSpace(line))
}

// withSerial adds the end of the serial log to an error.
func (m *Machine) withSerial(err error) error {
	if tail := m.serialTail(); tail != "" {
		return fmt.Errorf("%w\nthe serial log ends with:\n%s", err, tail)
	}
	return fmt.Errorf("%w (the serial log is empty)", err)
}

// explain says why a request was lost, where QEMU or the kernel told.
func (m *Machine) explain(err error, offset int64) error {
	if !errors.Is(err, errdefs.ErrUnavailable) {
		return err
	}
	select {
	case <-m.process.exited:
		return fmt.Errorf("%w: %w", err, m.ended())
	default:
	}
	if line := m.panicked(offset); line != "" {
		return fmt.Errorf("%w: %s", err, line)
	}
	return err
}
