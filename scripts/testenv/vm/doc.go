// Package vm runs tests inside virtual machines of the lab. One line says on which kernels:
//
//	func TestVMRingBuffer(t *testing.T) {
//		vm.Run(t, vm.On("6.1", "6.12", "7.3"), func(t *testing.T) { ... })
//	}
//
// Run makes one sub-test per target. On the host it builds the test binary of the calling package for the target's
// architecture, starts a machine, and runs exactly that sub-test in it; there, Run calls the body. What the machine prints is
// replayed on the host as a tree of sub-tests with the same names, logs, skips and failures, while it is printed.
// The code of the test function around Run therefore runs on both sides.
//
// Boot and Each are for tests that drive a machine from the host; Package runs all tests of another package in a machine, Packages those
// of many, one after another.
// The tests are called TestVM..., and are skipped unless PHONEHOST_TEST_VM is "subset" or "all".
//
// Two machines at most run at once. What a test starts is ended when it ends, and the serial log of a failed one is kept.
package vm
