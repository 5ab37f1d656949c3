package machine

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/phonehost/phonehost/scripts/testenv"
	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/host"
	"github.com/phonehost/phonehost/scripts/vm/lab"
)

// limit bounds a VM test: a machine that does not answer must not hold up the others.
const limit = 2 * time.Minute

// config returns the configuration of a kernel machine.
func config(t *testing.T, arch, series string) Config {
	t.Helper()
	if os.Getenv("PHONEHOST_TEST_VM") == "" {
		t.Skip("machines are started only by make test-vm, or where PHONEHOST_TEST_VM is subset or all")
	}
	for _, name := range []string{"qemu-system-x86_64", "qemu-system-aarch64", "qemu-img", "mke2fs", "dpkg-deb"} {
		if _, err := host.Look(name); err != nil {
			testenv.Missing(t, "vm", err.Error())
		}
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	l, err := lab.Open(lab.Config{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	kernel, err := l.Kernel(t.Context(), arch, series)
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := l.Initrd(t.Context(), kernel)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Kernel: kernel, Initrd: initrd, Cache: l.Cache(), Logger: log}
}

// bounded returns the test's context with a deadline.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// prepared returns a machine that has a slot, is not started, and ends with the test. The wait for the slot does not count for limit.
func prepared(t *testing.T, c Config) *Machine {
	t.Helper()
	m, err := prepare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("serial log:\n%s", m.serialTail())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// started starts a machine that ends with the test.
func started(t *testing.T, c Config) *Machine {
	t.Helper()
	m := prepared(t, c)
	if err := m.start(bounded(t)); err != nil {
		t.Fatal(err)
	}
	return m
}

// two makes the test one of those that run two machines at once. Of these only one runs on a host, or each might have one machine and
// wait for the other's to end.
func two(t *testing.T) {
	t.Helper()
	alone, err := takeSlot(t.Context(), hostSlots+"-two", 1, func(holders string) { t.Log("waiting for another test with two machines:", holders) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { alone.Close() })
}

// sh runs a line of shell in the guest and returns its output.
func sh(t *testing.T, m *Machine, line string) string {
	t.Helper()
	var out bytes.Buffer
	code, err := m.Exec(bounded(t), control.Command{Args: []string{"sh", "-c", line}, Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		t.Fatalf("%s: exit code %d, error %v\n%s", line, code, err, &out)
	}
	return strings.TrimSpace(out.String())
}

func TestVMKernel(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			m := started(t, config(t, arch, "6.12"))
			if got, want := sh(t, m, "uname -r"), m.Config().Kernel.Release; got != want {
				t.Errorf("uname -r: got %s, want %s", got, want)
			}
			g, err := m.Guest()
			if err != nil || len(g.Problems) > 0 {
				t.Errorf("guest: %+v, %v", g, err)
			}
			t.Log(sh(t, m, "cat /proc/mounts; ip addr; ip route; cat /proc/modules; date; ls /; ps"))
		})
	}
}
