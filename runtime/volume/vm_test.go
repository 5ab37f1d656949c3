package volume_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
	"github.com/phonehost/phonehost/scripts/vm/control"
)

// TestVMVolumes runs this package's tests on other kernels, as root with every capability: there mounted file systems grow, too. The
// host's file system has no reflinks.
func TestVMVolumes(t *testing.T) {
	vm.Package(t, vm.On("6.1", "6.12", "7.3").System().Nightly(), "runtime/volume",
		vm.Except("TestClone/reflinked"), vm.Require("root,mkfs.ext4,fsck.ext4,debugfs,tune2fs,losetup"))
}

// TestVMPowerCutOfVolumes takes the power from a machine while it makes, grows, clones and removes volumes, after a different number of
// steps each time: what was said to be done is done, and what is there is complete.
func TestVMPowerCutOfVolumes(t *testing.T) {
	for _, target := range vm.On("6.12").System().Nightly() {
		t.Run(target.String(), func(t *testing.T) {
			m := vm.Boot(t, vm.Targets{target}, vm.Disk(filepath.Join(t.TempDir(), "disk.qcow2")), vm.Programs("runtime/volume/testdata/powercut"))
			for i, steps := range []int{1, 3, 9} {
				dir := fmt.Sprintf("/var/lib/volumes-%d", i)
				done := cutAfter(t, m, steps, m.Program("powercut"), "work", dir)
				m.Write("/run/done", done)
				said := m.Shell(m.Program("powercut") + " check " + dir + " < /run/done")
				t.Logf("after %q: %s", strings.Fields(done), strings.TrimSpace(said))
			}
		})
	}
}

// cutAfter runs a program until it has printed so many lines, then takes the power from the machine, and gives it back. It returns what
// was printed.
func cutAfter(t *testing.T, m *vm.Machine, lines int, args ...string) string {
	t.Helper()
	var printed strings.Builder
	enough := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		code, err := m.Exec(context.WithoutCancel(t.Context()), control.Command{Args: args, Stdout: writer(func(p []byte) (int, error) {
			before := strings.Count(printed.String(), "\n")
			printed.Write(p)
			if after := strings.Count(printed.String(), "\n"); before < lines && after >= lines {
				close(enough)
			}
			return len(p), nil
		})})
		ended <- fmt.Errorf("exit code %d, %w", code, err)
	}()
	select {
	case <-enough:
	case err := <-ended:
		t.Fatalf("%v ended by itself: %v", args, err)
	}
	m.PowerCut()
	<-ended
	m.PowerOn()
	// A line that was cut off says nothing.
	whole := printed.String()
	return whole[:strings.LastIndexByte(whole, '\n')+1]
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
