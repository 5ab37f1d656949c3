package vm

import (
	"fmt"
	"os/exec"
	"testing"
)

// Modprobe loads a kernel module, with what it depends on, in the machine in which the test runs: Modprobe(t, "binder_linux",
// "devices=a,b"). A kernel without the module fails the test.
func Modprobe(t testing.TB, module string, options ...string) {
	t.Helper()
	if _, ok := Guest(); !ok {
		t.Fatalf("module %s is to be loaded outside of a machine: call Modprobe in the body of Run", module)
	}
	if err := modprobe(module, options...); err != nil {
		t.Fatal(err)
	}
}

func modprobe(module string, options ...string) error {
	if out, err := exec.Command("modprobe", append([]string{module}, options...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("load the module %s: %w\n%s", module, err, out)
	}
	return nil
}
