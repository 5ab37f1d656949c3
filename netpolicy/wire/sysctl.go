package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sysctls is where the settings of the calling thread's network namespace are.
const sysctls = "/proc/sys/net"

// setting is a value below sysctls, such as {"ipv4/conf/eth0/forwarding", "1"}.
type setting struct {
	path, value string
	// optional settings are left out by kernels that do not have them.
	optional bool
}

// readSetting returns a value; an error of fs.ErrNotExist when the kernel, or the link, does not have it.
func readSetting(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join(sysctls, path))
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// set writes a value unless it is there already: writing has effects of its own, such as messages to whoever listens.
func (s setting) set() error {
	now, err := readSetting(s.path)
	if s.optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || now == s.value {
		return err
	}
	if err := os.WriteFile(filepath.Join(sysctls, s.path), []byte(s.value), 0); err != nil {
		return fmt.Errorf("set sysctl to %s: %w", s.value, err)
	}
	return nil
}
