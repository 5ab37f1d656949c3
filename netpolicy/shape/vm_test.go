package shape_test

import (
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// On kernels without TCX, and on those of another architecture, limits are the same. The machines are emulated: how fast packets go there
// says nothing but that they go.
func TestVMShape(t *testing.T) {
	vm.Run(t, vm.On("6.1").And(vm.On("6.12").Arch("arm64"), vm.On("7.3").Nightly()), func(t *testing.T) {
		t.Run("probe", TestProbeLeavesNothing)
		t.Run("state", TestSetMakesTheKernelWhatTheLimitsAre)
		t.Run("crash", TestTheNextCallFinishesWhatACrashLeft)
		t.Run("others", TestOthersThingsAreLeftAlone)
		t.Run("programs", TestProgramsComeBeforeTheShaper)
		t.Run("change", TestChangeLosesNothing)
	})
}
