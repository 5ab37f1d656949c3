// Package testenv says what a test needs of the machine, and brings it: root, tools, the project's binaries, a containerd of the
// test's own.
//
// Each gate skips its test where the need is not met. The environment variable PHONEHOST_TEST_REQUIRE, a comma-separated list of
// needs or "all", turns a skip into a failure: a continuous build that promises a need must not pass without it. The needs are
// "root", "containerd", "vm" (a machine of the VM lab), "apks" (real APK files), "binaries" (programs built before, where
// PHONEHOST_TEST_BINARIES says so), and the name of each tool that is asked for.
//
// Only tests import it. What it starts it stops again in t.Cleanup, tasks of killed containerds included.
package testenv
