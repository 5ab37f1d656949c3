// Package binder gives guests their devices of the kernel's binder driver, which Android's processes talk through.
//
// A kernel offers one of three things, and Read tells which:
//
//   - binderfs (CONFIG_ANDROID_BINDERFS): every mount is an instance of its own, whose devices no other instance reaches. A guest
//     gets an instance: the OCI spec names it as a mount, so that it exists in the guest's mount namespace alone and goes with it,
//     whoever is killed when. Allocate makes what is missing in it between the task's creation and its start.
//   - a pool of device nodes in /dev, made by binder_linux's parameter devices=. A guest needs three, a Triple, and no two guests may
//     have the same: what one of them is called, all of its users call on.
//   - nothing.
//
// The package changes nothing on the host, mounts nothing and remembers nothing: which triple is whose is for the caller to read from
// what runs. Its functions may be called by any number of goroutines.
package binder
