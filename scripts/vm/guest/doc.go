// Package guest is the program inside a machine of the VM lab: /init of its initrd, and the service that carries out what the
// host asks for through package control. It is for that guest alone: it mounts, loads modules, runs what it is told as root
// and turns the computer off.
//
// # As init
//
// Init mounts what a kernel offers, loads the initrd's modules, waits for the drives (a virtio-blk drive is known by its
// serial: "modules", "root", "payload"), brings up the network and leaves the initrd's root, which is none that pivot_root
// works on. In a kernel machine the new root is a tmpfs with the initrd's files, and Init stays as process 1: it starts
// itself again with "serve" and does nothing but reap. In a system machine the new root is the root drive, and process 1
// becomes its systemd, whose unit runs /run/vm/vm-guest serve.
//
//	/run/vm/vm-guest          this program
//	/run/vm/problems          what went wrong on the way and did not keep the machine from booting, a line each
//	/run/payload/             the payload drive's tar file, unpacked
//	/usr/lib/modules/RELEASE  the modules drive
//
// In a kernel machine the program is /sbin/modprobe too, which the kernel calls for a module that it misses.
//
// # Goroutines
//
// Serve has one for the session and one for each request; Exec has those that copy the program's output. A program whose
// request was given up is killed with its process group.
package guest
