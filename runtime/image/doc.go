// Package image keeps the images that phones are made from, in containerd's image and content stores.
//
// An image is listed only when it is whole: its content for this host's platform is there and unpacked into the snapshotter, so that
// making a phone from it takes no further work, and its files are on disk: a power cut does not damage it. Content that a failed pull or import brought is held by a lease alone and goes with
// it. The package holds no state of its own; calls may come from any goroutine, and two that bring the same image at once both succeed.
//
// What an image says of itself is read from the labels of its configuration: dev.phonehost.profile names the profile that knows how to
// run it.
package image
