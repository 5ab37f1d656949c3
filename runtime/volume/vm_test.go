package volume_test

import (
	"testing"

	"github.com/phonehost/phonehost/scripts/testenv/vm"
)

// TestVMVolumes runs this package's tests on other kernels, as root with every capability: there mounted file systems grow, too. The
// host's file system has no reflinks.
func TestVMVolumes(t *testing.T) {
	vm.Package(t, vm.On("6.1", "6.12", "7.3").System().Nightly(), "runtime/volume",
		vm.Except("TestClone/reflinked"), vm.Require("root,mkfs.ext4,fsck.ext4,debugfs,tune2fs,losetup"))
}
