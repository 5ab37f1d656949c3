package debian

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/host"
)

// The names of the two archives, as Package.Archive has them.
const (
	mainArchive     = "debian"
	securityArchive = "debian-security"
)

// keyring is that of Debian's archives.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Archive takes packages from the mirror.
type Archive struct {
	cache *asset.Cache
	log   *slog.Logger
	apt   string // directory of apt's states, one for each architecture and list of suites
	pool  string // directory of the packages

	mu     sync.Mutex
	mirror string            // as configured; "" until bases has asked apt
	bases  map[string]string // URIs of the archives, by their names; nil until they are asked for
	read   map[string]dated  // indexes that were read, by the directories of their states
}

// Open makes an Archive. It asks nobody: whether the mirror answers shows when it is needed.
func Open(cfg Config) (*Archive, error) {
	if cfg.Cache == nil {
		return nil, fmt.Errorf("open the Debian archive: it needs a cache: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	apt, err := cfg.Cache.Keep("apt")
	if err != nil {
		return nil, err
	}
	pool, err := cfg.Cache.Keep("pool")
	if err != nil {
		return nil, err
	}
	return &Archive{cache: cfg.Cache, log: cfg.Logger, apt: apt, pool: pool, mirror: cfg.Mirror, read: map[string]dated{}}, nil
}

// base is the URI of an archive, without a slash at its end.
func (a *Archive) base(ctx context.Context, archive string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bases == nil {
		bases, err := findBases(ctx, a.mirror)
		if err != nil {
			return "", err
		}
		a.bases = bases
	}
	return a.bases[archive], nil
}

// findBases takes the URIs of the archives from mirror, or from the host's apt if mirror is "".
func findBases(ctx context.Context, mirror string) (map[string]string, error) {
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("check the signatures of Debian's archives: install the package debian-archive-keyring: %w", err)
	}
	if mirror != "" {
		mirror = strings.TrimRight(mirror, "/")
		if !strings.Contains(mirror, ":/") {
			return nil, fmt.Errorf("mirror %q: want the URI of a Debian archive, such as http://HOST/debian: %w", mirror, errdefs.ErrInvalidArgument)
		}
		return map[string]string{mainArchive: mirror, securityArchive: mirror + "-security"}, nil
	}
	// Without this option apt tells only of indexes that it has, and images of containers come with none.
	out, err := host.Output(ctx, "apt-get", "indextargets", "--no-release-info", "--format", "$(CREATED_BY) $(REPO_URI)")
	if err != nil {
		return nil, fmt.Errorf("ask apt for this host's mirror: %w", err)
	}
	bases := parseTargets(string(out))
	if bases == nil {
		return nil, fmt.Errorf("apt's sources on this host name no Debian archive (an URI that ends in /debian): "+
			"set PHONEHOST_VM_MIRROR to one: %w", errdefs.ErrNotFound)
	}
	return bases, nil
}

// parseTargets finds the archives in what `apt-get indextargets` prints: nil if there is no Debian archive.
func parseTargets(out string) map[string]string {
	bases := map[string]string{}
	for line := range strings.Lines(out) {
		by, uri, _ := strings.Cut(strings.TrimSpace(line), " ")
		uri = strings.TrimRight(uri, "/")
		name := uri[strings.LastIndexByte(uri, '/')+1:]
		if by == "Packages" && (name == mainArchive || name == securityArchive) && bases[name] == "" {
			bases[name] = uri
		}
	}
	if bases[mainArchive] == "" {
		return nil
	}
	if bases[securityArchive] == "" {
		bases[securityArchive] = bases[mainArchive] + "-security"
	}
	return bases
}

// archiveOf is the archive that a suite belongs to.
func archiveOf(suite string) string {
	if strings.HasSuffix(suite, "-security") {
		return securityArchive
	}
	return mainArchive
}
