package vm

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/machine"
)

// Machine is a machine that a test drives from the host. Its methods end the test where something goes wrong, and are for the
// test's goroutine; those that return an error are for any. It ends with the test that started it.
type Machine struct {
	t      *testing.T
	ctx    context.Context // ends with the test: every method is part of it
	target Target
	config machine.Config
	power  *power
}

// power is the running machine, shared by the views that In makes.
type power struct {
	now  *machine.Machine // nil while the power is cut
	kept []string         // serial logs of the machines before a power cut
}

// Boot starts a machine of the one target that targets names, with what the options bring at /run/payload.
func Boot(t *testing.T, targets Targets, opts ...Option) *Machine {
	t.Helper()
	if _, ok := Guest(); ok {
		t.Skip("machines are not started inside of machines")
	}
	if err := targets.check(); err != nil {
		t.Fatal(err)
	}
	if len(targets) != 1 {
		t.Fatalf("one machine is to be started on %d targets: want one, or vm.Each", len(targets))
	}
	gateTarget(t, targets[0], gate(t))
	needs(t, targets[0])
	return theLab.drive(t, targets[0], settle(opts))
}

// Each calls fn with a machine of each target, in the sub-test with the target's name, and returns when all are through.
func Each(t *testing.T, targets Targets, fn func(t *testing.T, m *Machine), opts ...Option) {
	t.Helper()
	if _, ok := Guest(); ok {
		t.Skip("machines are not started inside of machines")
	}
	each(t, targets, func(t *testing.T, target Target) {
		fn(t, theLab.drive(t, target, settle(opts)))
	})
}

// In returns the machine for a sub-test, which then fails by itself.
func (m *Machine) In(t *testing.T) *Machine {
	sub := *m
	sub.t = t
	return &sub
}

// Target is what was started.
func (m *Machine) Target() Target { return m.target }

// Program is the path, in the machine, of a program or file that an option put there.
func (m *Machine) Program(name string) string { return payloadDir + "/" + programDir + "/" + name }

// running is the machine, whose power must not be cut.
func (m *Machine) running() *machine.Machine {
	m.t.Helper()
	if m.power.now == nil {
		m.t.Fatal("the machine is used while its power is cut")
	}
	return m.power.now
}

// Run runs a program, which must succeed, and returns what it wrote to its standard output.
func (m *Machine) Run(args ...string) string {
	m.t.Helper()
	var stdout, stderr bytes.Buffer
	code, err := m.Exec(m.ctx, control.Command{Args: args, Stdout: &stdout, Stderr: &stderr})
	if err != nil || code != 0 {
		m.t.Fatalf("in %s: %s: exit code %d, %v\n%s%s", m.target, strings.Join(args, " "), code, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// Shell runs a script with the machine's sh -e, which must succeed, and returns what it wrote to its standard output.
func (m *Machine) Shell(script string) string {
	m.t.Helper()
	return m.Run("sh", "-ec", script)
}

// Exec runs a program and returns its exit code.
func (m *Machine) Exec(ctx context.Context, c control.Command) (int, error) {
	if m.power.now == nil {
		return 0, fmt.Errorf("run %s: the power of the machine is cut", strings.Join(c.Args, " "))
	}
	return m.power.now.Exec(ctx, c)
}

// Dial connects to an address of the machine, "tcp" or "unix", as a program in it would.
func (m *Machine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if m.power.now == nil {
		return nil, fmt.Errorf("dial %s: the power of the machine is cut", address)
	}
	return m.power.now.Dial(ctx, network, address)
}

// Forward returns an address of the host's loopback behind which the machine's TCP port is.
func (m *Machine) Forward(port int) string {
	m.t.Helper()
	address, err := m.running().Forward(m.ctx, port)
	if err != nil {
		m.t.Fatal(err)
	}
	return address
}

// Put copies the host's file to the path in the machine.
func (m *Machine) Put(file, path string, mode fs.FileMode) {
	m.t.Helper()
	from, err := os.Open(file)
	if err != nil {
		m.t.Fatal(err)
	}
	defer from.Close()
	if err := m.running().Put(m.ctx, path, mode, from); err != nil {
		m.t.Fatal(err)
	}
}

// Write writes a file of the machine.
func (m *Machine) Write(path, text string) {
	m.t.Helper()
	if err := m.running().Put(m.ctx, path, 0o644, strings.NewReader(text)); err != nil {
		m.t.Fatal(err)
	}
}

// Read returns the content of a file of the machine.
func (m *Machine) Read(path string) string {
	m.t.Helper()
	var text bytes.Buffer
	if err := m.running().Get(m.ctx, path, &text); err != nil {
		m.t.Fatal(err)
	}
	return text.String()
}

// Reset presses the machine's reset button and returns when it has booted again.
func (m *Machine) Reset() {
	m.t.Helper()
	if err := m.running().Reset(m.ctx); err != nil {
		m.t.Fatal(err)
	}
	m.waitBoot()
}

// Reboot shuts the machine down in order, and returns when it has booted again.
func (m *Machine) Reboot() {
	m.t.Helper()
	if err := m.running().Reboot(m.ctx); err != nil {
		m.t.Fatal(err)
	}
	m.waitBoot()
}

func (m *Machine) waitBoot() {
	m.t.Helper()
	if err := m.running().WaitBoot(m.ctx); err != nil {
		m.t.Fatal(err)
	}
}

// PowerCut ends the machine without warning. With the option Disk, PowerOn starts it again on what had reached its disk.
func (m *Machine) PowerCut() {
	m.t.Helper()
	if m.config.Disk == "" {
		m.t.Fatal("the power is cut of a machine whose disk is not kept: name one with vm.Disk")
	}
	now := m.running()
	m.power.kept = append(m.power.kept, now.SerialLog())
	m.power.now = nil
	now.PowerCut()
	if err := now.Close(); err != nil {
		m.t.Fatal(err)
	}
}

// PowerOn boots the machine again after PowerCut.
func (m *Machine) PowerOn() {
	m.t.Helper()
	if m.power.now != nil {
		m.t.Fatal("the machine has power already")
	}
	now, err := machine.Start(m.ctx, m.config)
	if err != nil {
		m.t.Fatal(err)
	}
	m.power.now = now
}
