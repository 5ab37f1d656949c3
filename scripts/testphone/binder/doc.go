// Package binder talks to the kernel's binder driver in its own protocol (include/uapi/linux/android/binder.h, version 8, 64 bits), and
// has the two ends that an Android has of it: a service manager, which names objects, and the calls of its clients. Transactions are
// laid out as Android 14 does (libbinder's Parcel, IServiceManager.aidl).
//
// The driver keeps apart who calls by thread. Do gives its function a Conn and a thread of the system, for as long as the function
// runs; a Conn is used by that function's goroutine only and starts none of its own.
//
// What other processes send is not trusted: a parcel is copied out of the driver's memory before it is read, every length is checked
// against what is left, and an object counts only where the driver says that one is, since it translates no others. No descriptors
// are accepted. Nothing of the driver's memory is ever a Go pointer: objects are known to the driver by small numbers.
package binder
