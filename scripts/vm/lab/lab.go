// Package lab builds what the VM lab boots: kernels, their modules, initrds, root file systems and the sysroots of cross builds. All
// come from Debian packages, as scripts/vm/lab.toml names them; each is an asset of the cache, keyed by everything that went into it.
//
// Nothing on the host is changed, nothing of a foreign architecture is run, and no machine is started: scripts/vm/machine does that.
//
// A Lab may be used by several goroutines and by several processes at once.
package lab

import (
	"log/slog"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/debian"
)

// Config says where a Lab works. Its zero value is useful.
type Config struct {
	// Repository is the root of the checkout: "" is the one around the working directory.
	Repository string
	// CacheDir is the directory of the assets: "" is asset.DefaultDir.
	CacheDir string
	// Mirror is the URI of a Debian archive: "" is $PHONEHOST_VM_MIRROR, else the host's apt sources.
	Mirror string
	// Logger may be nil.
	Logger *slog.Logger
}

// Lab is the lab of one checkout.
type Lab struct {
	repo    string
	log     *slog.Logger
	cache   *asset.Cache
	archive *debian.Archive
	file    *File
}

// Kernel is a kernel of Debian's with its modules.
type Kernel struct {
	// Arch is "amd64" or "arm64", Series "6.1", "6.12" or "7.3".
	Arch, Series string
	// Release is what uname -r shows.
	Release string
	// Image is the path of what QEMU's -kernel takes: an ELF vmlinux with a PVH note for amd64, an Image for arm64.
	Image string
	// Modules is the path of an ext4 image with the modules that lab.toml wants and those built out of the tree: the content of
	// /usr/lib/modules/RELEASE, with depmod's indexes, none compressed. It is mounted read-only.
	Modules string
	// Key changes when any of this does.
	Key asset.Key
}

// Initrd is an initial RAM file system, uncompressed: vm-guest as /init, busybox, the modules that mounting a root needs, and
// /modules.order-of-load, which names them one a line in the order to load them in.
type Initrd struct {
	Path string
	// Key changes when its content does.
	Key asset.Key
}

// Root is a root file system with systemd and containerd.
type Root struct {
	Arch string
	// Image is the path of a sparse raw ext4 image, to be used as a read-only backing file.
	Image string
	// Key changes when its content does.
	Key asset.Key
}

// Cache is the cache of the lab's assets. Snapshots and locks of machines are kept in it too.
func (l *Lab) Cache() *asset.Cache { return l.cache }

// Close gives up the assets that were returned; nobody else removes them before that.
func (l *Lab) Close() error { return l.cache.Close() }
