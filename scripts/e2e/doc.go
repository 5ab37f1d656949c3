// Package e2e tests the whole of phonehost from the outside: real containerd and runc, the built binaries, the testphone image, real
// encoders, decoders and Wayland clients. Tests speak to the agent as its users do, through phonectl and the network doors.
//
// TestMain builds the binaries and the image once. A test that disturbs the host (kills the agent or containerd) starts a host of
// its own; the others share one.
package e2e
