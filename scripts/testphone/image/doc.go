// Package image builds the testphone image: an OCI archive with one layer per architecture, the same bytes for the same source and
// toolchain. It owns the file layout of the image and its properties (build.prop).
//
// # What is in the image
//
//	/init -> system/bin/testphone          the entry point
//	/system/bin/testphone                  the one program
//	/system/bin/{sh,ls,getprop,...} -> testphone
//	/system/build.prop                     properties of the image
//	/bin -> system/bin, /etc               for those who expect them
//	/data /dev /proc /sys /run/wayland /tmp mount points
//
// Nothing is kept between calls; functions may be called concurrently.
package image

const (
	// Name is the image's name in containerd.
	Name = "phonehost.dev/testphone:latest"
	// Profile is the value of the label ProfileLabel.
	Profile = "testphone"
	// ProfileLabel is the label that tells phonehost which profile an image wants.
	ProfileLabel = "dev.phonehost.profile"
)

// Architectures are those that the image is built for, as Go and OCI name them.
func Architectures() []string { return []string{"amd64", "arm64"} }
