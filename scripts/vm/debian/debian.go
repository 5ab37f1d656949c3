// Package debian takes packages of any Debian suite and architecture from the mirror that this host's apt uses, and unpacks them,
// without changing anything on the host: apt works in a state directory of its own, inside the asset cache.
//
// apt checks the signatures of the indexes with Debian's own keyring, and every package is compared with the SHA-256 of its index
// when it arrives and again when it is used. The package never runs anything that a package contains.
//
// An Archive may be used by several goroutines and by several processes at once.
package debian

import (
	"log/slog"
	"time"

	"github.com/phonehost/phonehost/scripts/vm/asset"
)

// Config says where an Archive works.
type Config struct {
	// Cache holds apt's state and the packages. It outlives the Archive.
	Cache *asset.Cache
	// Mirror is the URI of a Debian archive, "http://HOST/debian"; the security archive is the one beside it, with "-security" added.
	// "" takes both from the host's apt sources.
	Mirror string
	// Logger may be nil.
	Logger *slog.Logger
}

// Request names the packages that are wanted.
type Request struct {
	// Arch is Debian's name of the architecture: "amd64", "arm64".
	Arch string
	// Suites are the suites to look in, "bookworm", "bookworm-security". Those that end in "-security" are of the security archive.
	Suites []string
	// Packages are names, or patterns as path.Match has them: the newest package that matches is taken, never one of -dbg,
	// -unsigned, -cloud or -rt. ":ARCH" after it overrides Arch; ":host" is the architecture of this machine.
	Packages []string
	// Closure takes what the packages depend on as well, without what they recommend, as if nothing were installed.
	Closure bool
	// Essential, with Closure, takes the essential packages too, which no package names among its dependencies.
	Essential bool
	// NotBefore is how old the mirror's indexes may be. Zero allows an hour.
	NotBefore time.Time
}

// Package is one version of one package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Arch is "all" for a package of every architecture.
	Arch string `json:"arch"`
	// Archive is "debian" or "debian-security"; Path is relative to it: "pool/main/b/busybox/busybox_1.35.0-4_amd64.deb".
	Archive string `json:"archive"`
	Path    string `json:"path"`
	SHA256  string `json:"sha256"`
	// Size is in bytes.
	Size int64 `json:"size"`
}

// Resolution is what a Request came to.
type Resolution struct {
	// Packages are sorted by name.
	Packages []Package `json:"packages"`
	// At is when the mirror was asked.
	At time.Time `json:"at"`
}
