package datapath

import (
	"fmt"
	"os"
	"path/filepath"
)

// GrantLeases lets a group use the Leases of the pins below a Config's Dir, and nothing else of them: its processes may read "clients",
// and read and write "names". It is called after Open, each time, since Open may have made new pins, and before OpenLeases of a process
// that is not root's. From Linux 5.19 on such a process needs no capability (kernel/bpf/syscall.c, __sys_bpf); before, it needs CAP_BPF
// where kernel.unprivileged_bpf_disabled is set.
func GrantLeases(dir string, gid int) error {
	p := pins(dir)
	for _, d := range []string{string(p), p.dir()} { // to be passed through, not listed
		if err := os.Chmod(d, 0o711); err != nil {
			return fmt.Errorf("grant leases: %w", err)
		}
	}
	for name, mode := range map[string]os.FileMode{"clients": 0o640, "names": 0o660} {
		pin := filepath.Join(p.dir(), name)
		if err := os.Chown(pin, 0, gid); err != nil {
			return fmt.Errorf("grant leases: %w", err)
		}
		if err := os.Chmod(pin, mode); err != nil {
			return fmt.Errorf("grant leases: %w", err)
		}
	}
	return nil
}
